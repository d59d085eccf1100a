"""
A page to ask about a clip, and to see what the answer depended on.

Names are loaded when they are first used: the command line asks for its arguments without torch.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


_MODULE_OF = {
    "PageSettings": "settings",
    "make_page": "page",
    "make_web_application": "running",
    "run_page": "running",
}

__all__ = [*_MODULE_OF]


if TYPE_CHECKING:
    from .page import make_page
    from .running import make_web_application, run_page
    from .settings import PageSettings

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
