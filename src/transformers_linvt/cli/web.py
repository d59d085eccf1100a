"""`linvt web`: a page to ask about a clip."""

import argparse
import os
from typing import Any

import transformers_linvt

from .. import web
from .loading import load, trusted
from .output import complain


_SETTINGS = ("max_waiting", "max_new_tokens", "max_file_bytes")


def show(arguments: argparse.Namespace) -> None:
    """Show the page until the process is asked to stop."""
    model = arguments.model
    settings = web.PageSettings(
        name="The embedded model" if model is None else os.path.basename(model.rstrip("/")) or model,
        limits=transformers_linvt.VideoLimits(**dict(arguments.limits or ())),
        has_examples=model is None,
        **{name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None},
    )

    def pipeline() -> Any:
        return load(model, arguments.device, arguments.dtype, **trusted(arguments))

    def ready(address: str, _: Any) -> None:
        complain(f"shows {settings.name} at {address} (stop with Ctrl-C)")

    web.run_page(pipeline, settings, arguments.host, arguments.port, ready)
