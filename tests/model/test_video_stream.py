"""A stream that is asked about while it goes on, in a memory that does not grow."""

import threading

import numpy as np
import PIL.Image
import pytest
import torch
from torch.testing import assert_close

from promises import QUESTION, Wrapped, check_refused, wrapped
from transformers_linvt import (
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    VideoLimits,
    VideoReadError,
    VideoStream,
    embedded_model_path,
)
from transformers_linvt.demo.shapes import make_clip
from transformers_linvt.tokenizer.frame_memory import FrameMemory


@pytest.fixture(scope="module")
def embedded() -> tuple[LinVTForVideoQA, LinVTProcessor]:
    path = embedded_model_path()
    return LinVTForVideoQA.from_pretrained(path), LinVTProcessor.from_pretrained(path)


@pytest.fixture
def family() -> Wrapped:
    return wrapped("qwen3_vl")


def push_all(stream: VideoStream, frames: np.ndarray, first: float = 0.0) -> None:
    for second, frame in enumerate(frames):
        stream.push(frame, first + second)


# --- what is remembered ----------------------------------------------------------------------------------------------


def test_a_short_stream_is_a_video(family: Wrapped):
    """Nothing is forgotten, so nothing is different: also of a base with deeper layers, and with frames that wait."""
    video = family.clip(11)
    stream = VideoStream(family.model, family.processor)
    for frame, seconds in zip(video.frames, video.timestamps, strict=True):
        stream.push(frame, float(seconds))
    whole = family.model.encode_video(video, family.processor)
    features = stream.features()
    for name, value in whole.refined.to_tensors().items():
        assert_close(features.refined.to_tensors()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    for layer, value in zip(features.deepstack, whole.deepstack, strict=True):
        assert_close(layer, value, atol=1e-4, rtol=1e-3)
    assert_close(features.timestamps, whole.timestamps)
    answer = family.model.answer(whole, QUESTION, family.processor, max_new_tokens=4)
    assert stream.ask(QUESTION, max_new_tokens=4) == answer
    assert stream.ask([QUESTION, QUESTION], max_new_tokens=4) == [answer] * 2


def test_an_hour_with_one_moment_in_it(embedded: tuple[LinVTForVideoQA, LinVTProcessor]):
    """3,600 noisy frames; the moment was 40 minutes ago, and what is kept is as much as after a minute."""
    model, processor = embedded
    frames, questions = make_clip("needle", seed=3, num_frames=8)  # one frame of the eight shows anything
    question, answer = next(one for one in questions if "colour" in one[0])
    still = np.median(frames, axis=0).astype(np.uint8)
    moment = int(np.abs(frames.astype(int) - still).sum((1, 2, 3)).argmax())
    rng = np.random.default_rng(0)
    noise = rng.integers(-3, 4, (16, *still.shape))
    stream, sizes = VideoStream(model, processor, memory_frames=24), []
    for second in range(3600):
        frame = frames[moment] if second == 1200 else still
        stream.push(np.clip(frame + noise[second % 16], 0, 255).astype(np.uint8), second)
        if second in (60, 3599):
            features = stream.features()
            sizes.append(sum(value.numel() for value in features.refined.to_tensors().values()))
    assert stream.num_frames == 3600 and stream.num_remembered == 24
    assert sizes[1] <= sizes[0] * 1.2
    assert 1200.0 in stream.features().timestamps.tolist()
    assert stream.ask(question) == answer


def test_the_least_new_is_forgotten_first_and_weighted_by_its_frames():
    """Five scenes of which one came once: of 60 frames the four changes are left."""
    torch.manual_seed(0)
    scenes = torch.randn(5, 6, 16)
    order = [0] * 20 + [1] * 20 + [2] + [3] * 9 + [4] * 10
    memory, fed = FrameMemory(capacity=5), []
    for second, scene in enumerate(order):
        fed.append(scenes[scene] + 0.01 * torch.randn(6, 16))
        memory.push(fed[-1], float(second), [fed[-1] * 2])
    assert memory.seconds == [0.0, 20.0, 40.0, 41.0, 50.0]
    assert memory.counts == [20, 20, 1, 9, 10]
    tokens, (layer,) = memory.stacked()
    starts = [0, 20, 40, 41, 50, 60]
    means = torch.stack([torch.stack(fed[a:b]).mean(0) for a, b in zip(starts, starts[1:], strict=False)])
    assert_close(tokens, means, atol=1e-5, rtol=1e-4)
    assert_close(layer, 2 * means, atol=1e-5, rtol=1e-4)


def test_a_copy_of_a_memory_goes_its_own_way():
    memory = FrameMemory(capacity=2)
    for second in range(2):
        memory.push(torch.eye(3)[second][None], float(second))
    copy = memory.copy()
    copy.push(torch.eye(3)[2][None], 2.0)
    assert memory.seconds == [0.0, 1.0] and len(copy.seconds) == 2 and sum(copy.counts) == 3
    assert_close(memory.stacked()[0], torch.eye(3)[:2, None])


def test_an_unfinished_step_of_time_is_seen_and_then_finished():
    family = wrapped("qwen2_vl")
    processor = LinVTProcessor(family.processor.base_processor, family.processor.num_video_tokens, frame_path="video")
    family.model.config.frame_path = "video"
    video = family.clip(6)
    stream = VideoStream(family.model, processor)
    push_all(stream, video.frames[:5])
    assert stream.features().num_frames == 3 and stream.num_remembered == 2
    stream.push(video.frames[5], 5.0)
    features = stream.features()
    whole = family.model.encode_video(video.frames, processor, timestamps=np.arange(6.0), num_frames=6)
    assert features.num_frames == whole.num_frames == 3
    assert_close(features.refined.kept_tokens, whole.refined.kept_tokens, atol=1e-4, rtol=1e-3)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_frames_are_pushed_while_questions_are_answered(embedded: tuple[LinVTForVideoQA, LinVTProcessor]):
    model, processor = embedded
    frames, questions = make_clip("static", seed=0, num_frames=8)
    stream, failures, asked = VideoStream(model, processor, memory_frames=12), [], []
    push_all(stream, frames)
    expected = stream.ask(questions[0][0])

    def push() -> None:
        try:
            push_all(stream, np.concatenate([frames] * 6), first=100.0)
        except Exception as error:
            failures.append(error)

    pusher = threading.Thread(target=push)
    pusher.start()
    while pusher.is_alive() or not asked:
        asked.append(stream.ask(questions[0][0]))
    pusher.join()
    assert not failures and set(asked) == {expected}
    assert stream.features().refined.num_frames <= 12 and stream.num_frames == 56


def test_a_push_waits_only_where_too_many_wait(embedded: tuple[LinVTForVideoQA, LinVTProcessor]):
    model, processor = embedded
    frames, _ = make_clip("static", seed=0, num_frames=8)
    stream = VideoStream(model, processor, max_waiting=10)
    with stream._model:  # as if a question were being answered

        def push() -> None:
            push_all(stream, np.concatenate([frames, frames]))

        pusher = threading.Thread(target=push)
        pusher.start()
        pusher.join(timeout=1.0)
        assert pusher.is_alive() and len(stream._waiting) == 10
    pusher.join(timeout=60)
    assert not pusher.is_alive() and stream.num_frames == 16


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_that_was_pushed_is_lost_where_encoding_stops(
    family: Wrapped, error: type, monkeypatch: pytest.MonkeyPatch
):
    video, stream = family.clip(8), VideoStream(family.model, family.processor)
    bridge = type(family.model.model.bridge)

    def stops(*_, **__):
        raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(bridge, "encode_frames", stops)
        push_all(stream, video.frames)
    assert len(stream._waiting) == 8
    assert stream.features().num_frames == 8


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_no_next_frame_is_refused_and_the_stream_goes_on(family: Wrapped):
    video = family.clip(4)
    stream = VideoStream(family.model, family.processor, limits=VideoLimits(max_pixels=video.frames[0].size))
    check_refused(lambda: stream.ask(QUESTION), LinVTInputError, "Nothing was pushed yet")
    stream.push(PIL.Image.fromarray(video.frames[0]), 1.5)
    height, width, _ = video.frames[0].shape
    refused = {
        "behind one of 1.5 s": lambda: stream.push(video.frames[1], 1.5),
        "give the time of the frame": lambda: stream.push(video.frames[1], float("nan")),
        "'two'": lambda: stream.push(video.frames[1], "two"),
        f"came in a stream of {width}x{height}": lambda: stream.push(video.frames[1][:-2], 2.0),
    }
    for words, call in refused.items():
        check_refused(call, LinVTInputError, words)
    check_refused(lambda: stream.push("frame.png", 2.0), VideoReadError, "str")
    check_refused(lambda: stream.push(np.zeros((999, 999, 3), np.uint8), 2.0), VideoReadError, "over the limit")
    assert stream.num_frames == 1 and stream.seconds == 1.5
    stream.push(torch.from_numpy(video.frames[1]).permute(2, 0, 1), 2.5)
    assert stream.features().num_frames == 2


def test_a_stream_that_ended_is_asked_and_takes_no_more(family: Wrapped):
    video = family.clip(3)
    with VideoStream(family.model, family.processor) as stream:
        push_all(stream, video.frames)
    assert isinstance(stream.ask(QUESTION, max_new_tokens=2), str)
    check_refused(lambda: stream.push(video.frames[0], 9.0), LinVTInputError, "was closed")


def test_a_stream_that_stalls_is_asked_about_what_came_before_and_goes_on(family: Wrapped):
    video = family.clip(7)
    stalled, smooth = (VideoStream(family.model, family.processor, memory_frames=4) for _ in range(2))
    push_all(stalled, video.frames[:3])
    short = family.model.encode_video(list(video.frames[:3]), family.processor, timestamps=[0.0, 1.0, 2.0])
    answers = {stalled.ask(QUESTION, max_new_tokens=4) for _ in range(3)}
    assert answers == {family.model.answer(short, QUESTION, family.processor, max_new_tokens=4)}
    assert stalled.num_frames == 3 and stalled.features().num_frames == 3
    push_all(stalled, video.frames[3:], first=60.0)  # it goes on after a minute of nothing
    push_all(smooth, video.frames[:3])
    push_all(smooth, video.frames[3:], first=60.0)
    went_on, was_not_asked = stalled.features(), smooth.features()
    for name, value in was_not_asked.refined.to_tensors().items():
        assert_close(went_on.refined.to_tensors()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert_close(went_on.timestamps, was_not_asked.timestamps)


def test_what_makes_no_stream_is_refused(family: Wrapped):
    model, processor = family.model, family.processor
    refused = {
        "memory_frames=1": lambda: VideoStream(model, processor, memory_frames=1),
        "max_waiting=True": lambda: VideoStream(model, processor, max_waiting=True),
        "LinVTProcessor of this model": lambda: VideoStream(model, processor.base_processor),
        "the same number": lambda: VideoStream(model, LinVTProcessor(processor.base_processor, 9)),
    }
    for words, call in refused.items():
        check_refused(call, LinVTInputError, words)
