"""Layouts that `linvt convert` reads, by the name in their config; for messages, so it knows nothing else."""

CONVERTIBLE = ("internvl_chat", "llava_qwen", "mipha_gemma", "mipha_phi", "mipha_phi3", "xgenmm")


def how_to_convert(name_or_path: str, model_type: str) -> str:
    """What to type for a checkpoint in one of the layouts."""
    return (
        f"{name_or_path!r} is published in a layout ({model_type}) that transformers does not read. Convert it once: "
        f"`hf download {name_or_path} --local-dir published`, then `linvt convert published converted`, and give the "
        "folder 'converted' here."
    )


__all__ = ["CONVERTIBLE", "how_to_convert"]
