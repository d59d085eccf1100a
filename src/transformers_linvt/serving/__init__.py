"""
An endpoint that OpenAI's clients speak to.

Names are loaded when they are first used: the command line asks for its arguments without torch.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


_MODULE_OF = {
    "ServerSettings": "settings",
    "make_application": "application",
    "run_server": "running",
    "take_port": "running",
}

__all__ = [*_MODULE_OF]


if TYPE_CHECKING:
    from .application import make_application
    from .running import run_server, take_port
    from .settings import ServerSettings

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
