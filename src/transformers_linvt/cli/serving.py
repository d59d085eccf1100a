"""`linvt serve`: an endpoint that OpenAI's clients speak to."""

import argparse
import os
from typing import Any

import transformers_linvt

from .. import serving
from ..lazy import required
from .loading import load, trusted
from .output import complain


_SETTINGS = ("max_waiting", "readers", "max_videos", "max_pictures", "max_new_tokens", "max_body_bytes")


def serve(arguments: argparse.Namespace) -> None:
    """Answer chat completions until the process is asked to stop."""
    for name in ("uvicorn", "starlette"):  # before a model is loaded
        required(name, "serving")
    model = arguments.model
    settings = serving.ServerSettings(
        name=arguments.served_name or ("embedded" if model is None else os.path.basename(model.rstrip("/")) or model),
        media_root=arguments.media_root,
        allowed_domains=tuple(arguments.allow_domain or ()),
        limits=transformers_linvt.VideoLimits(**dict(arguments.limits or ())),
        api_key=os.environ.get("LINVT_API_KEY") or None,
        **{name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None},
    )
    cache = {} if arguments.cache_dir is None else {"cache_dir": arguments.cache_dir}

    def pipeline() -> Any:
        return load(model, arguments.device, arguments.dtype, **cache, **trusted(arguments))

    def ready(address: str, _: Any) -> None:
        complain(f"serves {settings.name} at {address} (stop with Ctrl-C)")

    serving.run_server(pipeline, settings, arguments.host, arguments.port, ready)
