"""
Importing the package makes LinVT known to transformers, whichever comes first, and loads nothing.

Every test is a process of its own: what is in `sys.modules` is the point.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest


SOURCE = Path(__file__).resolve().parent.parent / "src"

# Everything that has to be known, by whatever way.
KNOWN = """
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
from transformers_linvt import LinVTConfig

assert type(AutoConfig.for_model("linvt")) is LinVTConfig
BiasedLlavaConfig = type(AutoConfig.for_model("linvt_llava"))  # of converted checkpoints
for mapping, name in (
    (MODEL_MAPPING, "LinVTForVideoQA"),
    (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, "LinVTForVideoQA"),
    (PROCESSOR_MAPPING, "LinVTProcessor"),
):
    assert BiasedLlavaConfig in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    assert LinVTConfig in mapping, name
    assert mapping[LinVTConfig].__name__ == name
for task in ("video-question-answering", "video-text-to-text"):
    assert task in PIPELINE_REGISTRY.get_supported_tasks(), task
    entry = PIPELINE_REGISTRY.check_task(task)[1]
    assert entry["impl"].__name__ == "VideoQuestionAnsweringPipeline"
    assert entry["pt"] == (AutoModelForImageTextToText,)
print("known")
"""

FIRST = {
    "the package, twice": "from transformers_linvt.auto import register\nregister()\nregister()",
    "transformers": "import transformers\nimport transformers_linvt",
    "the Auto classes": "from transformers import AutoModel, AutoProcessor, pipeline\nimport transformers_linvt",
    "a mixin of generation": "import transformers_linvt\nfrom transformers import GenerationMixin",
    "model and processor": "from transformers_linvt import LinVTForVideoQA, LinVTProcessor",
    # whose import is what loads the registry of transformers; this one failed half-way through its own
    "the configuration of converted bases": (
        "from transformers_linvt.bases.biased_llava.configuration_biased_llava import BiasedLlavaConfig"
    ),
    "the pipeline class": "from transformers_linvt import VideoQuestionAnsweringPipeline",
    "peft": "import peft\nimport transformers_linvt",
    "trl": "import trl\nfrom trl import SFTTrainer\nimport transformers_linvt",
    "trl after the package": "import transformers_linvt\nimport trl\nfrom trl import SFTTrainer",
}


def run(code: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:transformers_linvt", "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize("first", FIRST)
def test_linvt_is_known_whatever_is_imported_first(first: str):
    result = run(FIRST[first] + "\n" + KNOWN)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == "known"


def test_importing_the_package_loads_neither_torch_nor_the_auto_classes():
    result = run(
        "import sys, transformers\n"
        "before = set(sys.modules)\n"
        "import transformers_linvt\n"
        "assert transformers_linvt.__version__\n"
        "heavy = {'torch', 'numpy', 'av', 'PIL', 'trl', 'peft', 'decord', 'torchcodec', 'matplotlib'}\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not heavy & loaded, heavy & loaded\n"
        "assert 'torch' not in sys.modules\n"
        "auto = [name for name in sys.modules if name.startswith('transformers.models.auto')]\n"
        "assert not auto, auto\n"
        "assert 'transformers.pipelines' not in sys.modules\n"
        "print('light')"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == "light"


def test_every_public_name_exists_and_other_architectures_stay_as_they_were():
    result = run(
        "from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as MAPPING\n"
        "before = [*MAPPING._model_mapping.items(), *MAPPING._extra_content]\n"
        "import transformers_linvt\n"
        "for name in transformers_linvt.__all__:\n"
        "    assert getattr(transformers_linvt, name) is not None, name\n"
        "    assert name in dir(transformers_linvt), name\n"
        "try:\n"
        "    transformers_linvt.SomethingElse\n"
        "except AttributeError as error:\n"
        "    assert 'SomethingElse' in str(error)\n"
        "    after = [*MAPPING._model_mapping.items(), *MAPPING._extra_content]\n"
        "    added = [config.model_type for config in after[len(before):]]\n"
        "    assert after[:len(before)] == before and added == ['linvt', 'linvt_llava'], added\n"
        "    print('all there')\n"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == "all there"


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("transformers_linvt.shapes", "transformers_linvt.demo.shapes", "make_clip"),
        ("transformers_linvt.training.adapters", "transformers_linvt.training.lora", "merge"),
    ],
)
def test_a_module_that_moved_is_found_under_its_old_name_with_a_warning(old: str, new: str, name: str):
    with pytest.warns(FutureWarning, match=f"{old} is {new} now"):
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)
