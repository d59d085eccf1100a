"""SVR fed frame after frame: the same as of the whole video, with memory that does not grow with it."""

import errno
import gc
import tempfile

import pytest
import torch

from transformers_linvt.errors import LinVTInputError
from transformers_linvt.tokenizer import stream
from transformers_linvt.tokenizer.linear_video_tokenizer import LinearVideoTokenizer
from transformers_linvt.tokenizer.stream import TensorSpool, VideoRefiner


FRAMES, ROWS, COLUMNS, DIM = 53, 3, 4, 24
PLACES = ROWS * COLUMNS + 1  # with a newline token behind the grid


def make_tokenizer(**options):
    torch.manual_seed(0)
    tokenizer = LinearVideoTokenizer(
        **{"dim": DIM, "num_video_tokens": 10, "bottleneck_size": 16, "num_heads": 2, **options}
    ).eval()
    with torch.no_grad():  # a scorer that was trained moves what is new
        for parameter in tokenizer.scorer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return tokenizer


def make_video(num_frames=FRAMES, places=PLACES, kind="moving"):
    generator = torch.Generator().manual_seed(1)
    still = torch.randn(1, places, DIM, generator=generator)
    noise = torch.randn(num_frames, places, DIM, generator=generator)
    if kind == "still":
        return still + 0.01 * noise
    is_new = (torch.rand(num_frames, places, 1, generator=generator) < 0.3).float()
    return still + is_new * noise


def streamed(tokenizer, video, times, chunk, layers=(), tokens_at_once=0):
    with VideoRefiner(tokenizer, times, tokens_at_once) as refiner:
        for number, frames in enumerate(video.split(chunk)):
            now = slice(number * chunk, number * chunk + len(frames))
            refiner.feed(frames, [layer[now] for layer in layers], (ROWS, COLUMNS))
        return refiner.finish()


@pytest.mark.parametrize("kind", ["moving", "still"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temporal_window": 5},
        {"temporal_window": 1, "num_scorer_layers": 3},
        {"num_scorer_layers": 0},
        {"selection": "novelty"},
        {"num_kept_tokens": 20},
        {"scale_mode": "specific"},
    ],
    ids=str,
)
def test_a_video_in_pieces_is_refined_as_the_whole_is(options, kind):
    tokenizer, video = make_tokenizer(**options), make_video(kind=kind)
    times = torch.arange(FRAMES) * 0.7 + 3
    layer = video.flip(0) * 2
    whole = tokenizer.refine(video[None], timestamps=times[None], grid_sizes=[(ROWS, COLUMNS)])
    for chunk in (1, 7, FRAMES):
        refined, (averaged,) = streamed(tokenizer, video, times, chunk, [layer])
        for name, value in whole.to_tensors().items():
            torch.testing.assert_close(refined.to_tensors()[name], value, atol=2e-5, rtol=1e-4, msg=name)
        torch.testing.assert_close(averaged, whole.average(layer[None]), atol=2e-5, rtol=1e-4)


def test_what_compares_with_the_whole_video_is_refined_as_a_whole():
    for options in ({"init": "anchored"}, {"selection": "none"}, {"selection": "uniform"}):
        tokenizer, video = make_tokenizer(**options), make_video()
        times = torch.arange(FRAMES).float()
        whole = tokenizer.refine(video[None], timestamps=times[None], grid_sizes=[(ROWS, COLUMNS)])
        refined, _ = streamed(tokenizer, video, times, 7)
        assert torch.equal(refined.kept_tokens, whole.kept_tokens)


def test_a_video_in_bfloat16_is_the_same_up_to_its_rounding():
    tokenizer = make_tokenizer(selection="novelty").to(torch.bfloat16)
    video, times = make_video().bfloat16(), torch.arange(FRAMES).float()
    whole = tokenizer.refine(video[None], timestamps=times[None], grid_sizes=[(ROWS, COLUMNS)])
    refined, _ = streamed(tokenizer, video, times, 7)
    assert torch.equal(refined.kept_indices, whole.kept_indices)
    torch.testing.assert_close(refined.kept_tokens, whole.kept_tokens, atol=0.02, rtol=0.02)
    torch.testing.assert_close(refined.kept_features, whole.kept_features, atol=0.1, rtol=0.1)


def test_tokens_of_a_long_video_are_held_once_per_chunk(monkeypatch):
    """Counted as the tensors that are alive, from the inside of the last pass."""
    alive = {}

    def count_alive(original):
        def counted(self, values):
            if num_frames in alive or self.num_seen:  # once is enough: gc looks at everything there is
                return original(self, values)
            tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.is_floating_point()]
            sizes = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
            alive[num_frames] = sum(sizes.values())
            return original(self, values)

        return counted

    monkeypatch.setattr(stream.RunSums, "feed", count_alive(stream.RunSums.feed))
    tokenizer = make_tokenizer(num_kept_tokens=40)
    for num_frames in (64, 256):
        video = make_video(kind="still")[:32]
        with VideoRefiner(tokenizer, torch.arange(float(num_frames)), 0) as refiner:
            for _ in range(num_frames // 32):
                refiner.feed(video, (), (ROWS, COLUMNS))
            del video
            refiner.finish()
    per_frame = (alive[256] - alive[64]) / 192
    # scores, novelty, significance, mass and shares are a number per token each, times of frames two per frame
    assert 0 < per_frame <= 12 * 4 * PLACES + 16, per_frame
    assert per_frame < DIM * 4 * PLACES


def test_frames_of_another_video_and_missing_frames_are_refused():
    tokenizer, video = make_tokenizer(), make_video()
    with VideoRefiner(tokenizer, torch.arange(5.0), 0) as refiner:
        refiner.feed(video[:3], (), (ROWS, COLUMNS))
        with pytest.raises(LinVTInputError, match=f"have {PLACES - 2} tokens each, in a video of 5 f"):
            refiner.feed(video[:1, 2:])
        with pytest.raises(LinVTInputError, match="Frames 3 to 6 have"):
            refiner.feed(video[3:6])
        with pytest.raises(LinVTInputError, match="3 of 5 frames came"):
            refiner.finish()


def test_a_full_disk_is_one_message(monkeypatch):
    class FullFile:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullFile())
    with pytest.raises(LinVTInputError, match=r"No space left on device.*set TMPDIR"):
        streamed(make_tokenizer(), make_video(), torch.arange(float(FRAMES)), 7)


def test_a_spool_gives_back_what_it_was_given_and_its_file():
    spool = TensorSpool()
    parts = [torch.randn(2, 3).bfloat16(), torch.randn(0, 3).bfloat16(), torch.randn(5, 3).bfloat16()]
    for part in parts:
        spool.append(part)
    for _ in range(2):
        assert torch.equal(torch.cat(list(spool)), torch.cat(parts))
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        list(spool)
