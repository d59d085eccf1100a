"""
A video is encoded once: every further question about it, in whatever call, chat or process, finds it by its content.

And never another one: what changes the frame tokens changes the key, and what lies in the folder is checked.
"""

import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tiny_bases import build
from transformers_linvt import (
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    VideoFeatures,
    VideoQuestionAnsweringPipeline,
)
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.model.digests import FileDigests
from transformers_linvt.model.encoding import VideoEncoding
from transformers_linvt.video import chunks, reading


VIDEO_TOKENS, FRAMES = 6, 7


def make_model(seed: int = 0) -> LinVTForVideoQA:
    torch.manual_seed(seed)
    base, _ = build("llava_phi")
    return LinVTForVideoQA.from_base(base, num_video_tokens=VIDEO_TOKENS, bottleneck_size=8, num_heads=2, init="free")


@pytest.fixture
def model() -> LinVTForVideoQA:
    return make_model()


@pytest.fixture(scope="module")
def processor() -> LinVTProcessor:
    return LinVTProcessor.from_base(build("llava_phi")[1], num_video_tokens=VIDEO_TOKENS, num_frames=16)


def make_pipe(model, processor, **options) -> VideoQuestionAnsweringPipeline:
    return VideoQuestionAnsweringPipeline(
        model=model, processor=processor, device="cpu", max_new_tokens=4, do_sample=False, **options
    )


def write(path: Path, seed: int = 0) -> str:
    write_clip(path, make_clip("scenes", seed=seed, num_frames=FRAMES)[0])
    os.utime(path, (1e9, 1e9))  # long ago, as most files are
    return str(path)


@pytest.fixture
def clip(tmp_path) -> str:
    return write(tmp_path / "clip.mp4")


@pytest.fixture
def costs(model, monkeypatch) -> Counter:
    """Counts videos that are decoded and videos that are encoded."""
    counter: Counter = Counter()
    read, encode = reading.read_into, VideoEncoding.finish

    def counted_read(*args, **kwargs):
        counter["read"] += 1
        return read(*args, **kwargs)

    def counted_encode(encoding):
        counter["encoded"] += 1
        return encode(encoding)

    for module in (reading, chunks):
        monkeypatch.setattr(module, "read_into", counted_read)
    monkeypatch.setattr(VideoEncoding, "finish", counted_encode)
    return counter


def chat(path: str, *texts: str) -> list[dict]:
    content = [{"type": "video", "path": path}, {"type": "text", "text": texts[0]}]
    turns = [{"role": "user", "content": content}]
    for number, text in enumerate(texts[1:]):
        turns.append({"role": ("assistant", "user")[number % 2], "content": text})
    return turns


# --- in memory -------------------------------------------------------------------------------------------------------


def test_further_questions_neither_decode_nor_encode(model, processor, clip, costs):
    pipe, forgetful = make_pipe(model, processor), make_pipe(model, processor, cache_size=0)
    expected = [forgetful(video=clip, question=question) for question in ("Who?", "Where?")]
    costs.clear()
    assert [pipe(video=clip, question=question) for question in ("Who?", "Where?")] == expected
    assert costs == {"read": 1, "encoded": 1}
    assert (pipe.cache.hits, len(pipe.cache)) == (1, 1)


def test_turns_of_a_chat_and_inputs_of_a_list_find_it_too(model, processor, clip, costs):
    pipe, forgetful = make_pipe(model, processor), make_pipe(model, processor, cache_size=0)
    first, second = chat(clip, "Who?"), chat(clip, "Who?", "A man.", "Where?")
    expected = [forgetful(first), forgetful(second)]
    costs.clear()
    assert [pipe(first), pipe(second)] == expected
    assert pipe([{"video": clip, "question": "Who?"}] * 3, batch_size=3)[2][0]["frames_seen"] == FRAMES
    assert costs == {"read": 1, "encoded": 1}


def test_one_video_in_several_rows_of_one_batch_is_encoded_once(model, processor, clip, costs):
    pipe = make_pipe(model, processor)
    pipe([{"video": clip, "question": question} for question in ("Who?", "Where?", "Why?")], batch_size=3)
    assert costs["encoded"] == 1


def test_another_name_is_the_same_video_under_that_name(model, processor, clip, costs, tmp_path):
    pipe = make_pipe(model, processor)
    pipe(video=clip, question="Who?")
    other = shutil.copy(clip, tmp_path / "other.mp4")
    assert pipe(video=str(other), question="Who?")[0]["video"] == str(other)
    assert costs == {"read": 1, "encoded": 1}


def test_frames_in_memory_are_found_by_their_pixels_and_times(model, processor, costs):
    pipe = make_pipe(model, processor)
    frames = make_clip("scenes", seed=3, num_frames=FRAMES)[0]
    pipe(video=frames, question="Who?", fps=8)
    pipe(video=frames.copy(), question="Where?", fps=8)
    assert costs["encoded"] == 1
    frames[2, 0, 0, 0] ^= 1
    pipe(video=frames, question="Where?", fps=8)
    assert costs["encoded"] == 2
    pipe(video=frames, question="Where?", timestamps=[float(number**2) for number in range(FRAMES)])
    assert costs["encoded"] == 3


def test_whatever_changes_the_tokens_is_encoded_again(model, processor, clip, costs, monkeypatch):
    pipe = make_pipe(model, processor)
    pipe(video=clip, question="Who?")
    of_vision = next(weight for name, weight in model.base_vlm.named_parameters() if "vision" in name)
    changes = {
        "how LinVT scores": lambda: next(model.linvt.parameters()).detach().add_(1),
        "what the base sees": lambda: of_vision.detach().mul_(2),
        "the file": lambda: write(Path(clip), seed=1),
    }
    for count, (name, change) in enumerate(changes.items(), start=2):
        change()
        pipe(video=clip, question="Who?")
        assert costs["encoded"] == count, name
    monkeypatch.setattr(processor.base_processor.image_processor, "image_mean", [0.25, 0.5, 0.75])
    pipe(video=clip, question="Who?")
    pipe(video=clip, question="Who?", num_frames=3)
    pipe(video=clip, question="Who?", start=0.25)
    assert costs["encoded"] == len(changes) + 4


def test_a_file_that_is_written_while_it_is_read_is_not_remembered(model, processor, clip, costs, monkeypatch):
    pipe = make_pipe(model, processor)
    read = chunks.read_into

    def and_written(*args, **kwargs):
        video = read(*args, **kwargs)
        write(Path(clip), seed=2)
        os.utime(clip, (2e9, 2e9))
        return video

    monkeypatch.setattr(chunks, "read_into", and_written)
    pipe(video=clip, question="Who?")
    assert len(pipe.cache) == 0


def test_a_file_that_was_just_written_is_read_for_its_digest_each_time(tmp_path):
    """A second write within one tick of the file system's clock would leave size and time as they were."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"one")
    digests = FileDigests()
    before, status = digests.of(path)[0], path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digests.of(path)[0] != before


def test_evidence_has_its_frames_and_the_encoding_is_not_paid_twice(model, processor, clip, costs):
    pipe = make_pipe(model, processor)
    pipe(video=clip, question="Who?")
    (result,) = pipe(video=clip, question="Who?", return_evidence=True)
    assert costs == {"read": 2, "encoded": 1}
    assert result["evidence"].frames.shape[:3] == (FRAMES, 256, 256)
    assert result["evidence"].attribution is not None


def test_what_is_kept_has_limits(model, processor, clip, costs, tmp_path):
    others = [write(tmp_path / f"{seed}.mp4", seed) for seed in (1, 2)]
    pipe = make_pipe(model, processor, cache_size=2)
    for path in (clip, others[0], clip, others[1]):  # the first of the others is the one not used for longest
        pipe(video=path, question="Who?")
    assert costs["encoded"] == 3 and len(pipe.cache) == 2
    pipe(video=clip, question="Who?")
    assert costs["encoded"] == 3
    pipe(video=others[0], question="Who?")
    assert costs["encoded"] == 4
    small = make_pipe(model, processor, cache_bytes=100)
    small(video=clip, question="Who?")
    assert len(small.cache) == 0
    pipe.cache.clear()
    assert len(pipe.cache) == 0


@pytest.mark.parametrize("options", [{"cache_size": -1}, {"cache_bytes": "1"}, {"cache_dir_bytes": True}])
def test_numbers_that_cannot_be_are_refused(model, processor, options):
    with pytest.raises(LinVTInputError, match=f"{next(iter(options))}=.*whole number"):
        make_pipe(model, processor, **options)


def test_a_cache_is_no_argument_of_a_call(model, processor, clip):
    with pytest.raises(LinVTInputError, match="'cache_size' is no argument"):
        make_pipe(model, processor)(video=clip, question="Who?", cache_size=3)


# --- encoded videos --------------------------------------------------------------------------------------------------


def test_an_encoded_video_is_asked_like_its_file(model, processor, clip, costs, tmp_path):
    pipe = make_pipe(model, processor)
    expected = pipe(video=clip, question=["Who?", "Where?"])
    pipe.encode(clip).save(tmp_path / "clip.safetensors")
    features = VideoFeatures.load(tmp_path / "clip.safetensors")
    costs.clear()
    found = pipe(video=features, question=["Who?", "Where?"])
    assert costs == {}
    assert [{**one, "video": clip} for one in found] == expected
    messages = [{"role": "user", "content": [{"type": "video", "video": features}, {"type": "text", "text": "Who?"}]}]
    assert pipe(messages)[0]["answer"] == expected[0]["answer"]
    evidence = pipe(video=features, question="Who?", return_evidence=True)[0]["evidence"]
    assert evidence.attribution is not None and len(evidence.to_dict()["timestamps"]) == FRAMES
    with pytest.raises(LinVTInputError, match="no frames to draw"):
        evidence.draw()


def test_an_encoded_video_is_refused_by_another_model(model, processor, clip):
    features = make_pipe(model, processor).encode(clip)
    with pytest.raises(LinVTInputError, match="encoded by another model"):
        make_pipe(make_model(seed=1), processor)(video=features, question="Who?")


# --- in a folder -----------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_there_for_the_next_process(model, processor, clip, costs, tmp_path):
    expected = make_pipe(model, processor, cache_dir=tmp_path / "cache")(video=clip, question="Who?")
    costs.clear()
    assert make_pipe(model, processor, cache_dir=tmp_path / "cache")(video=clip, question="Who?") == expected
    assert costs == {}
    # the key is of the weights' values, not of where they lie
    again = make_pipe(make_model(), processor, cache_dir=tmp_path / "cache")
    assert again(video=clip, question="Who?") == expected and again.cache.hits == 1
    other = make_pipe(make_model(seed=1), processor, cache_dir=tmp_path / "cache")
    other(video=clip, question="Who?")
    assert other.cache.hits == 0 and len(files_of(tmp_path / "cache")) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "not ours", "empty"])
def test_a_damaged_file_is_not_taken(model, processor, clip, costs, tmp_path, caplog, damage):
    folder = tmp_path / "cache"
    expected = make_pipe(model, processor, cache_dir=folder)(video=clip, question="Who?")
    (path,) = files_of(folder)
    data = path.read_bytes()
    if damage == "not ours":
        save_file({"weight": torch.ones(3)}, path)
    else:
        middle = len(data) - 200
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"cut": data[:-9], "flipped": flipped, "empty": b""}[damage])
    costs.clear()
    assert make_pipe(model, processor, cache_dir=folder)(video=clip, question="Who?") == expected
    assert costs["encoded"] == 1
    assert "encoded again" in caplog.text
    whole = make_pipe(model, processor, cache_dir=folder)
    assert whole(video=clip, question="Who?") == expected and whole.cache.hits == 1 and len(files_of(folder)) == 1


def test_a_full_disk_costs_the_file_and_not_the_answer(model, processor, clip, tmp_path, caplog, monkeypatch):
    def full(self, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoFeatures, "save", full)
    (result,) = make_pipe(model, processor, cache_dir=tmp_path / "cache")(video=clip, question="Who?")
    assert isinstance(result["answer"], str)
    assert "No space left" in caplog.text and files_of(tmp_path / "cache") == []


def test_a_folder_has_a_size(model, processor, clip, tmp_path):
    folder = tmp_path / "cache"
    make_pipe(model, processor, cache_dir=folder)(video=clip, question="Who?")
    (first,) = files_of(folder)
    os.utime(first, (1e9, 1e9))
    pipe = make_pipe(model, processor, cache_dir=folder, cache_dir_bytes=first.stat().st_size * 2 + 50)
    second = write(tmp_path / "second.mp4", seed=1)
    pipe(video=second, question="Who?")
    pipe(video=clip, question="Who?")  # used: its turn to go comes later
    assert pipe.cache.hits == 1
    (older,) = (path for path in files_of(folder) if path != first)
    os.utime(older, (1.5e9, 1.5e9))
    pipe(video=write(tmp_path / "third.mp4", seed=2), question="Who?")
    left = files_of(folder)
    assert first in left and older not in left and len(left) == 2
    small = make_pipe(model, processor, cache_dir=tmp_path / "small", cache_dir_bytes=10)
    small(video=clip, question="Who?")
    assert files_of(tmp_path / "small") == []


def test_several_writers_leave_whole_files(model, processor, clip, tmp_path):
    folder = tmp_path / "cache"
    pipes = [make_pipe(model, processor, cache_dir=folder) for _ in range(4)]
    features = pipes[0].encode(clip)
    video = processor.read_video(clip)
    threads = [
        threading.Thread(target=lambda pipe=pipe: [pipe.cache.put("a" * 32, video, features) for _ in range(5)])
        for pipe in pipes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = make_pipe(model, processor, cache_dir=folder).cache.get("a" * 32)
    assert torch.equal(found.features.refined.kept_tokens, features.refined.kept_tokens)
    np.testing.assert_array_equal(found.video.timestamps, video.timestamps)
    assert [path for path in files_of(folder) if path.suffix != ".safetensors"] == []


def test_what_a_killed_writer_left_goes_after_a_day(model, processor, tmp_path):
    folder = tmp_path / "cache"
    make_pipe(model, processor, cache_dir=folder)
    old, new = folder / ".one.partial", folder / ".two.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    make_pipe(model, processor, cache_dir=folder)
    assert files_of(folder) == [new]


def test_a_folder_that_cannot_be_made_is_refused(model, processor, clip):
    with pytest.raises(LinVTInputError, match="cache_dir=.*cannot be made"):
        make_pipe(model, processor, cache_dir=clip)
