# /// script
# dependencies = ["transformers-linvt"]
# ///
"""
Answers by vLLM to prompts that LinVT made: vision tower and LinVT run in transformers, the language model in vLLM.

    python examples/vllm_prompt_embeds.py prepare MODEL FOLDER clip.mp4 "What happens?" ["Who is there?" ...]
    python examples/vllm_prompt_embeds.py answer FOLDER        # in an environment with vLLM, which needs no LinVT

`prepare` writes the language model, with the adapter of the checkpoint merged into it, as a model of its own, and the
embedded prompts. It is for bases whose tokens stand in a row (LLaVA, InternVL, Idefics and the like), and refuses
those that place them in time, rows and columns (Qwen2-VL and later) or add visual features in deeper layers
(Qwen3-VL): vLLM takes embeddings and nothing beside them.
"""

import argparse
import json
from pathlib import Path
from typing import Any


# in a folder of their own: vLLM takes all safetensors beside a config for weights
_PROMPTS, _QUESTIONS = "prompts/embeds.safetensors", "prompts/questions.json"


def prepare(arguments: argparse.Namespace) -> None:
    """Write the language model and the prompts."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from transformers_linvt import LinVTForVideoQA, LinVTProcessor

    folder = Path(arguments.folder)
    model = LinVTForVideoQA.from_pretrained(arguments.model).eval()
    processor = LinVTProcessor.from_pretrained(arguments.model)
    features = model.encode_video(arguments.video, processor)
    inputs = processor.question_inputs(arguments.questions)
    with torch.no_grad():
        prepared, condensed = model.model.prepare(**inputs, video_features=[features] * len(arguments.questions))
        positions = prepared.get("position_ids")
        if condensed.deepstack or model.model.has_video_grid or (positions is not None and positions.dim() > 2):
            raise SystemExit("The language model of this base needs more than embeddings: use transformers.")
        embeds = model.get_input_embeddings()(inputs["input_ids"]).clone()
        embeds[inputs["video_mask"].bool()] = condensed.tokens.flatten(0, 1).to(embeds.dtype)
    # padding, and video tokens that a video has no need of, are not there for vLLM
    belongs = prepared["attention_mask"].bool()
    (folder / _PROMPTS).parent.mkdir(parents=True, exist_ok=True)
    prompts = {
        str(number): one[kept].contiguous() for number, (one, kept) in enumerate(zip(embeds, belongs, strict=True))
    }
    save_file(prompts, folder / _PROMPTS)
    (folder / _QUESTIONS).write_text(json.dumps(arguments.questions), encoding="utf-8")

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    decoder = model.get_decoder()
    language_model = AutoModelForCausalLM.from_config(decoder.config, dtype=model.dtype)
    language_model.model.load_state_dict(_merged(decoder))
    language_model.lm_head.load_state_dict(_merged(model.get_output_embeddings()))
    language_model.generation_config = model.generation_config
    language_model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)


def _merged(module: Any) -> dict[str, Any]:
    """The weights of a module without those of the adapter that was merged into them."""
    state = module.state_dict()
    return {name.replace("base_layer.", ""): value for name, value in state.items() if "lora_" not in name}


def answer(arguments: argparse.Namespace) -> None:
    """Answer the prompts of a folder with vLLM."""
    from safetensors.torch import load_file
    from vllm import LLM, SamplingParams

    folder = Path(arguments.folder)
    questions, prompts = json.loads((folder / _QUESTIONS).read_text()), load_file(folder / _PROMPTS)
    llm = LLM(model=str(folder), enable_prompt_embeds=True, dtype=arguments.dtype, max_model_len=arguments.length)
    asked = [{"prompt_embeds": prompts[str(number)]} for number in range(len(questions))]
    made = llm.generate(asked, SamplingParams(temperature=0, max_tokens=arguments.max_new_tokens))
    for question, one in zip(questions, made, strict=True):
        print(f"{question}\n  {one.outputs[0].text.strip()}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("prepare")
    for name in ("model", "folder", "video"):
        first.add_argument(name)
    first.add_argument("questions", nargs="+")
    first.set_defaults(run=prepare)
    second = commands.add_parser("answer")
    second.add_argument("folder")
    second.add_argument("--dtype", default="auto")
    second.add_argument("--length", type=int, default=2048, help="most tokens of a prompt and its answer")
    second.add_argument("--max-new-tokens", type=int, default=256)
    second.set_defaults(run=answer)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
