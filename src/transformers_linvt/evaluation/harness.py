"""The entry point of lmms-eval: under which name it finds LinVT. Nothing else is loaded for it."""

# in an environment of its own
from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]


MANIFEST = ModelManifest(
    model_id="linvt",
    chat_class_path="transformers_linvt.evaluation.harness_models.LinVTChat",
    simple_class_path="transformers_linvt.evaluation.harness_models.LinVTSimple",
)
