"""The checkpoints that travel inside the package, so that everything can be tried without a network."""

from pathlib import Path

from ..errors import CheckpointError


EMBEDDED_MODEL_KNOWS = "The embedded model knows pictures of coloured shapes and nothing else."

_ASSETS = Path(__file__).resolve().parent / "assets"


def embedded_base_path() -> str:
    """
    The folder of the embedded image model, which knows pictures of coloured shapes: a LLaVA with a million parameters.

    Raises:
        `CheckpointError`: if the package was installed without its assets.

    Example:

    >>> from transformers import AutoConfig
    >>> AutoConfig.from_pretrained(embedded_base_path()).model_type
    'llava'
    """
    return _folder("shapes_vlm")


def embedded_model_path() -> str:
    """
    The folder of the embedded LinVT checkpoint: a LinVT and a LoRA adapter around the embedded base.

    Trained in two stages on generated clips of coloured shapes with 16 frames, at which 256 frame tokens become 32
    (`make train-linvt-shapes`).

    Raises:
        `CheckpointError`: if the package was installed without its assets.

    Example:

    >>> from transformers import AutoConfig
    >>> AutoConfig.from_pretrained(embedded_model_path()).model_type
    'linvt'
    """
    return _folder("linvt_shapes")


def _folder(name: str) -> str:
    folder = _ASSETS / name
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"The embedded model is missing in {folder}: this copy of transformers-linvt is incomplete. Install it "
            "again from a wheel or from a full checkout, or name a model of your own."
        )
    return str(folder)
