"""
Why averages stay aligned: how far video tokens are from tokens of pictures, of a linear LinVT and a nonlinear one.

    python benchmarks/studies/alignment.py --folder FOLDER [--models linear=CHECKPOINT nonlinear=CHECKPOINT]

The base's language model was trained on the tokens of pictures. For each model, and for tokens of pictures that were
held out:

- distance to their hull: from a token to the nearest weighted average of tokens of other pictures, as a share of the
  spread of picture tokens (Frank-Wolfe, so an upper bound that is at most a little too large);
- outside their spectrum: the share of a token's variance that lies outside the directions that hold 99 % of the
  variance of picture tokens;
- shift of the next token: the divergence between what the language model expects to answer about a picture and about
  the same picture as a still clip, in nats.

Without `--models` an untrained LinVT of each kind is put around the embedded base.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from shared import Figure, Result, add_output_arguments, finish
from torch.nn import functional

from transformers_linvt import LinVTForVideoQA, LinVTProcessor, embedded_base_path
from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation import make_clips


def hull_distances(tokens: torch.Tensor, corners: torch.Tensor, steps: int = 200) -> torch.Tensor:
    """
    How far each token is from the convex hull of the corners.

    Frank-Wolfe with exact steps: after n steps the square is too large by at most the diameter's square times 2 / n.

    Args:
        tokens (`torch.Tensor` of shape `(num, dim)`), corners (`torch.Tensor` of shape `(num_corners, dim)`).

    Returns:
        `torch.Tensor` of shape `(num,)`.

    Example:

    >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> [round(value, 2) for value in hull_distances(torch.tensor([[0.5, 0.5], [0.5, 3.0]]), square).tolist()]
    [0.0, 2.0]
    """
    nearest = corners[torch.cdist(tokens, corners).argmin(1)].clone()
    for _ in range(steps):
        gap = nearest - tokens
        corner = corners[(gap @ corners.T).argmin(1)]
        way = corner - nearest
        step = -(gap * way).sum(1) / way.square().sum(1).clamp_min(1e-12)
        nearest = nearest + step.clamp(0, 1)[:, None] * way
    return (nearest - tokens).norm(dim=1)


def outside_spectrum(tokens: torch.Tensor, reference: torch.Tensor, kept: float = 0.99) -> float:
    """Share of the variance of tokens outside the directions that hold `kept` of the variance of the reference."""
    mean = reference.mean(0)
    _, values, directions = torch.linalg.svd(reference - mean, full_matrices=False)
    held = values.square().cumsum(0) / values.square().sum()
    basis = directions[: int((held < kept).sum()) + 1]
    centred = tokens - mean
    return 1 - ((centred @ basis.T).square().sum() / centred.square().sum()).item()


class Measured:
    """One model: its video tokens, and what its language model expects to answer."""

    def __init__(self, model: LinVTForVideoQA, processor: LinVTProcessor) -> None:
        self.model, self.processor = model.eval(), processor

    @torch.no_grad()
    def video_tokens(self, frames: np.ndarray, question: str) -> torch.Tensor:
        """`(number in use, dim)`."""
        features = self.model.encode_video(**self.processor.video_inputs(frames, num_frames=len(frames)))
        inputs = self.processor.question_inputs([question])
        _, condensed = self.model.model.prepare(**inputs, video_features=[features])
        return condensed.tokens[0].reshape(-1, condensed.tokens[0].shape[-1])

    @torch.no_grad()
    def picture_tokens(self, frames: np.ndarray) -> torch.Tensor:
        """Tokens of every frame, `(num_frames * tokens per frame, dim)`."""
        inputs = self.processor.video_inputs(frames, num_frames=len(frames))
        counts = inputs.pop("frames_per_video").tolist()
        inputs.pop("video_timestamps", None)
        encoded = self.model.model.encode_videos(counts, {key.removeprefix("frame_"): inputs[key] for key in inputs})
        return encoded[0].tokens.reshape(-1, encoded[0].tokens.shape[-1])

    @torch.no_grad()
    def expects(self, content: dict, question: str, **sampling) -> torch.Tensor:
        """Log-probabilities of the first token of an answer, `(vocabulary,)`."""
        chat = [{"role": "user", "content": [content, {"type": "text", "text": question}]}]
        how = {"tokenize": True, "add_generation_prompt": True, "return_dict": True}
        inputs = self.processor.apply_chat_template(chat, **how, processor_kwargs={"return_tensors": "pt"}, **sampling)
        return self.model(**inputs).logits[0, -1].float().log_softmax(-1)


def measure(measured: Measured, num_clips: int, num_frames: int, seed: int) -> dict[str, float]:
    """Every figure of one model on one seed, and the same of pictures that were held out."""
    pictures = [clip for clip in make_clips("pictures", 2 * num_clips, 1, seed)]
    tokens = measured.picture_tokens(np.concatenate([clip.frames() for clip in pictures]))
    half = len(tokens) // 2
    reference, held_out = tokens[:half], tokens[half:]
    spread = (reference - reference.mean(0)).norm(dim=1).mean()
    clips = make_clips("scenes", num_clips, num_frames, seed)
    video = torch.cat([measured.video_tokens(clip.frames(), clip.questions[0].question) for clip in clips])
    shifts = []
    for clip in make_clips("static", num_clips, num_frames, seed):
        frames, question = clip.frames(), clip.questions[0].question
        seen = measured.expects({"type": "image", "image": frames[0]}, question)
        moved = measured.expects({"type": "video", "video": frames}, question, num_frames=num_frames)
        shifts.append(functional.kl_div(moved, seen, log_target=True, reduction="sum").item())
    return {
        "pictures": (hull_distances(held_out[:: max(1, len(held_out) // 256)], reference).mean() / spread).item(),
        "hull": (hull_distances(video, reference).mean() / spread).item(),
        "outside of pictures": outside_spectrum(held_out, reference),
        "outside": outside_spectrum(video, reference),
        "shift": float(np.mean(shifts)),
    }


def table(results: dict[str, list[dict[str, float]]]) -> Result:
    """Means over seeds, with the smallest and the largest."""
    titles = "distance to the hull, of the spread", "outside the spectrum, %", "shift of the next token, nats"
    panels: dict[str, dict[str, Figure]] = {title: {} for title in titles}

    def cell(title: str, name: str, values: list[float]) -> str:
        figure = panels[title][name] = (float(np.mean(values)), min(values), max(values))
        return "{:.3g} [{:.3g}, {:.3g}]".format(*figure)

    rows: list[tuple[str, ...]] = [("tokens", *titles)]
    held, every = "of pictures that were held out", [one for several in results.values() for one in several]
    hull, outside = [one["pictures"] for one in every], [100 * one["outside of pictures"] for one in every]
    rows.append((held, cell(titles[0], held, hull), cell(titles[1], held, outside), ""))
    for name, several in results.items():
        found = [one["hull"] for one in several], [100 * one["outside"] for one in several]
        shift = [one["shift"] for one in several]
        rows.append((name, *(cell(title, name, own) for title, own in zip(titles, (*found, shift), strict=True))))
    return Result(rows, panels, axis="mean of the seeds, with the smallest and the largest")


def load(name: str, path: str | None, seed: int) -> Measured:
    """A checkpoint, or an untrained LinVT of one kind around the embedded base."""
    if path:
        return Measured(LinVTForVideoQA.from_pretrained(path), LinVTProcessor.from_pretrained(path))
    torch.manual_seed(seed)
    options = {"num_video_tokens": 32, "bottleneck_size": 64, "num_heads": 4, "aggregation": name}
    model = LinVTForVideoQA.from_base(embedded_base_path(), **options)
    return Measured(model, LinVTProcessor.from_base(embedded_base_path(), num_video_tokens=32))


def main() -> None:
    """Measure what is missing, and make the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["linear=", "nonlinear="], metavar="NAME=CHECKPOINT")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_output_arguments(parser)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path, known = arguments.folder / "alignment.json", {}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
    results: dict[str, list] = {}
    for entry in arguments.models:
        name, _, checkpoint = entry.partition("=")
        for seed in arguments.seeds:
            key = f"{name} {checkpoint} {arguments.clips} {arguments.frames} {seed}"
            if key not in known:
                if arguments.table:
                    raise LinVTInputError(f"There is no {name}, seed {seed}, in {path}. Leave --table out to make it.")
                known[key] = measure(load(name, checkpoint, seed), arguments.clips, arguments.frames, seed)
                path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            results.setdefault(name if checkpoint else f"{name}, untrained", []).append(known[key])
    finish(arguments, "alignment", table(results))


if __name__ == "__main__":
    main()
