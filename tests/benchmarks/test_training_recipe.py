"""
The fast trainer of `benchmarks/` is the product: its answers are those of the model as people use it, its language
model is the base's own forward pass, and what it counts as right is right.
"""

import importlib.util
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from transformers_linvt.demo import shapes
from transformers_linvt.model.processing_linvt import LinVTProcessor


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FRAMES, CLIPS = 8, 3


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(BENCHMARKS))
    import recipe_data
    import training_recipe

    yield recipe_data, training_recipe
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def clips(modules):
    data, _ = modules
    encoder, seeds = data.Encoder(), range(data.FIRST_EVALUATED, data.FIRST_EVALUATED + CLIPS)
    kinds = ("static", "moment", "traverse", "count")
    return {
        kind: data.EncodedClips(**data.encode_clips(encoder, kind, seeds, FRAMES, "clip_choose")) for kind in kinds
    }


@pytest.fixture(scope="module")
def pictures(modules):
    data, _ = modules
    pictures = data.encode_pictures(data.Encoder(), 5, "train")
    return {kind: data.EncodedPictures(**values) for kind, values in pictures.items()}


@pytest.fixture
def model(modules):
    _, training = modules
    return training.SmallModel(replace(training.Recipe(), lora_rank=3, batch_size=7, mix=(("traverse", None, 1),)), 5)


def randomise(parameters) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.03 * torch.randn_like(parameter))


def test_the_language_model_is_the_bases_own(modules, model):
    _, training = modules
    randomise(model.add_lora())
    prompts = model.prompts([("Where is the red cross?", "top left"), ("How many?", "two")], [16, 4])
    visual = [torch.randn(1, 16, 128), torch.randn(1, 4, 128)]
    embeds = model.embed(prompts.input_ids)
    embeds[prompts.input_ids == model.placeholder] = torch.cat([tokens[0] for tokens in visual])
    attention_mask = prompts.mask.long()
    hidden = model.base.model.language_model(inputs_embeds=embeds, attention_mask=attention_mask).last_hidden_state
    expected = model.base.lm_head(hidden)[prompts.labels != -100]
    assert expected.shape[0] == 4  # "top left" is one word of the vocabulary; and the end of both
    torch.testing.assert_close(model.logits(prompts, *visual), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("num_video_tokens", [16, 25])
def test_evaluation_counts_the_answers_of_the_product(modules, clips, num_video_tokens):
    """
    Half of the answers of these wrappers are wrong: both sides have to be wrong about the same ones.

    Of 25 video tokens some clips use fewer, which one side leaves away and the other masks.
    """
    _, training = modules
    model = training.SmallModel(training.Recipe(num_video_tokens=num_video_tokens), 5)
    randomise(model.linvt.parameters())
    model.model.eval()
    processor = LinVTProcessor.from_base(training.embedded_base_path(), num_video_tokens=num_video_tokens)
    expected: dict[str, list[int]] = {}
    for kind in ("moment", "count"):
        for seed, script in enumerate(clips[kind].scripts, start=training.FIRST_EVALUATED):
            frames, _ = shapes.make_clip(kind, seed, FRAMES, split="clip_choose")
            features = model.model.encode_video(**processor.video_inputs(frames, fps=8.0, max_frames=FRAMES))
            answers = model.model.answer(features, [q.question for q in script.questions], processor)
            for question, answer in zip(script.questions, answers, strict=True):
                key = f"{kind}{question.subject and ' ' + question.subject} | {question.kind}"
                count = expected.setdefault(key, [0, 0])
                count[0] += answer == question.answer
                count[1] += 1
    counts = training.Evaluator(model, clips_at_once=2).clips({kind: clips[kind] for kind in ("moment", "count")})
    assert {key: counts[key] for key in expected} == expected
    assert 0 < sum(right for right, _ in expected.values()) < sum(asked for _, asked in expected.values())


class SaysOneThing(torch.nn.Module):
    """Stands in for a `SmallModel`: it always says the same, whatever it is shown, and remembers what that was."""

    def __init__(self, model, answer: str) -> None:
        super().__init__()
        self.recipe, self.prompts, self.answer, self.shown = model.recipe, model.prompts, model.ids(answer)[0], []
        self.device = model.device

    def refine(self, frame_tokens):
        self.shown.append(frame_tokens)
        return self

    def select(self, rows):
        return rows

    def numbers_of_tokens(self, refined):
        return [1] * len(refined)

    def condense(self, refined, prompts):
        return None

    def logits(self, prompts, visual):
        if visual is not None:
            self.shown.append(visual)
        labels = prompts.labels[prompts.labels != -100].clone()
        before_end = torch.cat([labels[1:] == labels[-1], torch.tensor([False])])
        labels[before_end] = self.answer  # answers of one word
        return torch.nn.functional.one_hot(labels, 285).float()


def test_a_motion_backwards_is_right_with_the_opposite_answer(modules, model, clips):
    _, training = modules
    answers = [script.questions[0].answer for script in clips["traverse"].scripts]
    said = answers[0]
    stand_in = SaysOneThing(model, said)
    counts = training.Evaluator(stand_in).clips({"traverse": clips["traverse"]})
    assert counts["traverse | direction"] == counts["traverse shuffled | direction"] == [answers.count(said), CLIPS]
    assert counts["traverse backwards | direction"] == [answers.count(shapes.OPPOSITES[said]), CLIPS]
    forwards, shuffled, backwards = stand_in.shown
    assert torch.equal(backwards, forwards.flip(1)) and not torch.equal(shuffled, forwards)
    assert torch.equal(shuffled.sort(1).values, forwards.sort(1).values)


def test_a_shuffled_clip_is_shown_in_as_many_orders_as_asked_for(modules, model, clips):
    _, training = modules
    stand_in = SaysOneThing(model, "left")
    counts = training.Evaluator(stand_in, num_orders=3).clips({"traverse": clips["traverse"]})
    assert counts["traverse shuffled | direction"] == [3 * n for n in counts["traverse | direction"]]
    forwards, *shuffled, _ = stand_in.shown
    assert len(shuffled) == 3 and all(torch.equal(s.sort(1).values, forwards.sort(1).values) for s in shuffled)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(shuffled, 2))
    alone = SaysOneThing(model, "left")
    training.Evaluator(alone).clips({"traverse": clips["traverse"]})
    assert torch.equal(alone.shown[1], shuffled[0])  # the first order is that of a single one


def test_a_still_clip_is_compared_with_its_own_picture(modules, model, clips):
    _, training = modules
    stand_in = SaysOneThing(model, "yes")
    counts = training.Evaluator(stand_in).clips({"static": clips["static"]})
    for kind in shapes.PICTURE_KINDS:
        assert counts[f"static | {kind}"] == counts[f"static as a picture | {kind}"]
    assert counts["static | existence"] == [CLIPS, 2 * CLIPS]  # one yes and one no of each
    shown = stand_in.shown[-1].unflatten(0, (CLIPS, -1))
    assert torch.equal(shown[:, 0], clips["static"].tokens[:, 0].float())


def test_spaced_tokens_are_as_far_apart_as_all_would_be_and_a_picture_stays(modules, model):
    _, training = modules
    spaced = training.SmallModel(replace(model.recipe, spaces_tokens=True, num_video_tokens=24), 5)
    pairs = [("What colour is it?", "red")] * 2
    start, prompts = len(spaced.ids(spaced.head)), spaced.prompts(pairs, [18, 16])
    video, picture = prompts.positions
    assert video[: start + 18].tolist() == [*range(start), *(start + 4 * number // 3 for number in range(18))]
    assert video[start + 18] == start + 24 and (video[start + 18 :].diff() == 1).all()
    length = prompts.mask[1].sum()
    assert picture[:length].tolist() == list(range(length))
    for recipe in (spaced, model):
        tokens = torch.randn(34, 128, generator=torch.Generator().manual_seed(3))
        logits = recipe.logits(prompts, tokens)
        own = recipe.base(
            inputs_embeds=recipe.embed(prompts.input_ids).masked_scatter(
                (prompts.input_ids == recipe.placeholder).unsqueeze(-1), tokens
            ),
            attention_mask=prompts.mask,
            position_ids=prompts.positions if recipe is spaced else torch.arange(prompts.mask.shape[1]).expand(2, -1),
        ).logits[prompts.labels != -100]
        torch.testing.assert_close(logits, own, atol=1e-4, rtol=1e-3)


def test_training_learns_from_clips_and_pictures(modules, model, clips, pictures):
    _, training = modules
    every_kind = {kind: clips.get(kind, clips["static"]) for kind in shapes.CLIP_KINDS}
    trainer = training.Trainer(model, every_kind, pictures, seed=1, log=lambda line: None)
    drawn_clips, drawn_pictures = trainer._draw(0.5)
    assert (len(drawn_clips), len(drawn_pictures)) == (5, 2)  # a third of 7
    assert {kind for kind, _, _ in drawn_clips} == {"traverse"}
    trainer.recipe = replace(trainer.recipe, learning_rate=3e-3, lora_rate=3e-2)
    before = {name: value.detach().clone() for name, value in model.base.named_parameters()}
    losses = trainer._steps(12, captions=False)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    after = dict(model.base.named_parameters())
    for name, value in before.items():
        trained = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(value, trained), name  # the base is frozen, whatever LoRA does


def test_settings_and_mixes_come_from_the_command_line(modules):
    _, training = modules
    settings = training.parse_settings(["num_video_tokens=5", "text_conditioned=False", "lora_rate=0.5"])
    assert settings == {"num_video_tokens": 5, "text_conditioned": False, "lora_rate": 0.5}
    assert training.parse_mix(["needle=2", "order:order=5"]) == (("needle", None, 2.0), ("order", "order", 5.0))
    for wrong in (lambda: training.parse_settings(["colour=red"]), lambda: training.parse_mix(["film=2"])):
        with pytest.raises(SystemExit, match="Use"):
            wrong()


def test_seeds_are_asked_what_the_example_asks(modules):
    """The figures of five seeds are of the recipe that `make train-linvt-shapes` follows."""
    _, training_recipe = modules
    spec = importlib.util.spec_from_file_location("shapes_clips", BENCHMARKS.parent / "examples" / "shapes_clips.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for name in ("MIX", "PICTURE_MIX", "CAPTION_KINDS", "SHUFFLED_KINDS"):
        assert getattr(training_recipe, name) == getattr(example, name), name
    assert training_recipe.Recipe().picture_share == example.PICTURE_SHARE


@pytest.mark.parametrize("arm", ["mean over time", "uniform frames", "k-means"])
def test_an_arm_without_linvt_has_its_budget_its_size_and_a_gradient(arm, modules, clips):
    _, training = modules
    recipe = replace(training.Recipe(), condenser=arm, num_video_tokens=9, lora_rank=0)
    model = training.SmallModel(recipe, 5)
    size, linvt = (sum(p.numel() for p in part.parameters()) for part in (model.adapter, model.linvt))
    assert abs(size - linvt) < 0.01 * linvt
    tokens = clips["count"].tokens[:2].float()
    refined = model.refine(tokens)
    assert refined.tokens.shape[:2] == (2, 9) if arm != "k-means" else refined.tokens.shape[1] <= 9
    questions = [(script.questions[0].question, "two") for script in clips["count"].scripts[:2]]
    prompts = model.prompts(questions, model.numbers_of_tokens(refined))
    before = model.condense(refined, prompts)
    torch.testing.assert_close(before, refined.tokens.flatten(0, 1))  # it starts as the identity
    model.logits(prompts, before).sum().backward()
    assert model.adapter.layers[2].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.linvt.parameters())
