"""An encoded video: what a file keeps of it, what may be stacked, and what is refused."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from promises import FAMILIES, LINVT, QUESTION, Wrapped, check_refused, stir, wrapped
from transformers_linvt import LinVTForVideoQA, LinVTInputError, VideoFeatures


@pytest.fixture
def family() -> Wrapped:
    return wrapped("qwen3_vl")


@pytest.fixture
def features(family: Wrapped) -> VideoFeatures:
    return family.model.encode_video(**family.processor.video_inputs(family.clip(5)))


def tensors_of(features: VideoFeatures) -> dict[str, torch.Tensor]:
    deepstack = {f"deepstack.{i}": layer for i, layer in enumerate(features.deepstack)}
    return {**features.refined.to_tensors(), **deepstack, "timestamps": features.timestamps}


def test_an_encoded_video_is_what_was_kept(family: Wrapped, features: VideoFeatures):
    inputs = family.processor.video_inputs(family.clip(5))
    frames = {name.removeprefix("frame_"): value for name, value in inputs.items() if name.startswith("frame_")}
    (video,) = family.model.model.encode_videos([5], frames)
    refined = features.refined
    starts = refined.kept_indices[0]
    assert bool((starts.diff() > 0).all())
    # frame tokens to slots, by hand: every slot is an average, and every frame token is in one
    averages = torch.zeros(len(starts), 5 * 15)
    averages[refined.run_slots[0], torch.arange(5 * 15)] = refined.run_weights[0]
    assert_close(averages.sum(1), torch.ones(len(starts)))
    assert bool((averages.sum(0) > 0).all())
    assert_close(refined.kept_tokens[0], averages @ video.tokens.flatten(0, 1))
    assert len(features.deepstack) == len(video.deepstack) == 2
    for layer, values in zip(features.deepstack, video.deepstack, strict=True):
        assert_close(layer[0], averages @ values.flatten(0, 1))
    assert features.num_frames == 5 and features.grid_size == (3, 5) and features.width == 56
    assert features.container == "tuple"
    assert_close(features.timestamps, torch.arange(5) ** 1.5)


def test_a_file_keeps_everything(features: VideoFeatures, tmp_path: Path):
    features.save(tmp_path / "clip.safetensors")
    again = VideoFeatures.load(tmp_path / "clip.safetensors")
    assert (again.grid_size, again.container, again.num_frames) == ((3, 5), "tuple", 5)
    loaded, expected = tensors_of(again), tensors_of(features)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_a_video_without_times_stays_without(family: Wrapped, tmp_path: Path):
    inputs = family.processor.video_inputs(family.clip(3))
    del inputs["video_timestamps"]
    family.model.encode_video(**inputs).save(tmp_path / "clip.safetensors")
    assert VideoFeatures.load(tmp_path / "clip.safetensors").timestamps is None


def test_stacking_repeats_one_video(features: VideoFeatures):
    num_slots = features.refined.kept_indices.shape[1]
    stacked = VideoFeatures.stack([features] * 3)
    assert stacked.refined.kept_tokens.shape == (3, num_slots, 56)
    assert [layer.shape for layer in stacked.deepstack] == [(3, num_slots, 56)] * 2
    for row in range(3):
        assert torch.equal(stacked.refined.kept_tokens[row], features.refined.kept_tokens[0])


def test_videos_of_different_lengths_make_a_batch_that_equals_one_by_one(family: Wrapped, features: VideoFeatures):
    other = family.model.encode_video(**family.processor.video_inputs(family.clip(3, 1)))
    assert other.num_frames != features.num_frames
    videos = [other, features, other]
    backbone = family.model.model
    together = backbone.condense_features(videos)
    for row, video in enumerate(videos):
        alone = backbone.condense_features([video])
        assert_close(together.tokens[row], alone.tokens[0], atol=1e-5, rtol=1e-4)
        for layers, layers_alone in zip(together.deepstack, alone.deepstack, strict=True):
            assert_close(layers[row], layers_alone[0], atol=1e-5, rtol=1e-4)
        frames, tokens = video.num_frames, video.refined.tokens_per_frame
        dense = together.outputs.weights.select([row]).dense()[0]
        dense = dense.view(len(dense), *together.outputs.significance.shape[1:])
        assert_close(dense[:, :frames, :tokens].flatten(1), alone.outputs.weights.dense()[0], atol=1e-6, rtol=1e-4)
        assert not dense[:, frames:].any() and not dense[:, :, tokens:].any()
    assert together.grid_sizes == [video.grid_size for video in videos]


def test_videos_of_different_models_make_no_batch(features: VideoFeatures):
    other = features.to("cpu")
    other.container = "another"
    check_refused(lambda: VideoFeatures.stack([features, other]), LinVTInputError, "different models", "another")


def test_precision_applies_to_tokens_and_not_to_weights(features: VideoFeatures):
    half = features.to("cpu", torch.bfloat16)
    assert {half.refined.kept_tokens.dtype, *(layer.dtype for layer in half.deepstack)} == {torch.bfloat16}
    assert half.refined.log_significance.dtype == half.refined.places.dtype == torch.float32
    same = features.to("cpu")
    assert torch.equal(same.refined.kept_tokens, features.refined.kept_tokens)
    assert same.deepstack[0].dtype == torch.float32


def test_a_file_that_is_none_of_ours_is_refused(features: VideoFeatures, tmp_path: Path):
    path = tmp_path / "clip.safetensors"
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path))
    path.write_bytes(b"")
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path))
    path.write_text("<html>not found</html>")
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path))
    save_file({"weight": torch.ones(1)}, path)
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, "format None", "encode_video")
    features.save(path)
    path.write_bytes(path.read_bytes()[:-7])
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path))
    check_refused(lambda: VideoFeatures.load(tmp_path), LinVTInputError, str(tmp_path))


@pytest.mark.parametrize("place", [0.2, 0.5, 0.99])
def test_a_file_in_which_a_byte_has_changed_is_refused(features: VideoFeatures, tmp_path: Path, place: float):
    """Also where all numbers are still such as a video could have: their answers would be another video's."""
    path = tmp_path / "clip.safetensors"
    features.save(path)
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")  # behind the header
    data[int(start + place * (len(data) - start))] ^= 1
    path.write_bytes(data)
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path), "Encode the video again")


def test_what_is_said_of_the_video_cannot_change_either(features: VideoFeatures, tmp_path: Path):
    path = tmp_path / "clip.safetensors"
    features.save(path)
    data = path.read_bytes()
    assert data.count(b'"3x5"') == 1
    path.write_bytes(data.replace(b'"3x5"', b'"5x3"'))
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path), "damaged")


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="there is no limit of a file's size here")
def test_no_room_is_said_and_leaves_nothing(features: VideoFeatures, tmp_path: Path):
    resource = pytest.importorskip("resource")
    before, path = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "clip.safetensors"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        check_refused(lambda: features.save(path), LinVTInputError, repr(str(path)), "File too large", "Make room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
    nowhere = tmp_path / "nowhere" / "clip.safetensors"
    check_refused(lambda: features.save(nowhere), LinVTInputError, "folder does not exist")


def test_a_file_that_lacks_a_tensor_is_refused(features: VideoFeatures, tmp_path: Path):
    path = tmp_path / "clip.safetensors"
    features.save(path)
    tensors = load_file(path)
    del tensors["kept_indices"]
    metadata = {"format": "linvt-video-features-3", "container": "tuple", "grid_size": "3x5"}
    save_file(tensors, path, metadata=metadata)
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, "kept_indices missing")


def test_a_file_of_the_version_before_runs_is_refused_and_says_what_to_do(features: VideoFeatures, tmp_path: Path):
    path = tmp_path / "clip.safetensors"
    features.save(path)
    tensors = {name: value for name, value in load_file(path).items() if not name.startswith("run_")}
    save_file(tensors, path, {"format": "linvt-video-features-1", "container": "tuple", "grid_size": "3x5"})
    words = ("'linvt-video-features-1'", "expected 'linvt-video-features-3'", "Encode the video again")
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path), *words)


# --- where features are from -----------------------------------------------------------------------------------------


def test_features_of_another_model_are_refused_and_of_the_same_one_taken(
    family: Wrapped, features: VideoFeatures, tmp_path: Path
):
    features.save(tmp_path / "clip.safetensors")
    loaded = VideoFeatures.load(tmp_path / "clip.safetensors")
    assert loaded.origin == features.origin is not None
    expected = family.model.answer(features, QUESTION, family.processor, max_new_tokens=3)
    assert family.model.answer(loaded, QUESTION, family.processor, max_new_tokens=3) == expected
    family.model.save_pretrained(tmp_path / "model")
    again = LinVTForVideoQA.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    again.answer(loaded, QUESTION, family.processor, max_new_tokens=3)  # the same weights, in another precision
    other = stir(LinVTForVideoQA.from_base(family.base, **LINVT), seed=7)
    words = ("made by another model", "trained further")
    check_refused(lambda: other.answer(loaded, QUESTION, family.processor), LinVTInputError, *words)
    tower = next(p for n, p in again.base_vlm.named_parameters() if "visual" in n and n.endswith("weight"))
    with torch.no_grad():
        tower.view(-1)[0] += 1.0
    check_refused(lambda: again.answer(loaded, QUESTION, family.processor), LinVTInputError, *words)


def test_the_digest_of_a_video_tells_frames_and_times_apart(family: Wrapped, features: VideoFeatures):
    def digest(num_frames: int = 5, seed: int = 0, **changed: torch.Tensor) -> str:
        inputs = {**family.processor.video_inputs(family.clip(num_frames, seed)), **changed}
        return family.model.encode_video(inputs).origin.video

    assert digest() == features.origin.video
    others = [digest(6), digest(seed=1), digest(video_timestamps=torch.arange(5) + 0.5)]
    assert len({features.origin.video, *others}) == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_features_of_every_family_pass_their_own_check(name: str, tmp_path: Path):
    family = wrapped(name)
    family.model.encode_video(**family.processor.video_inputs(family.clip(3))).save(tmp_path / "clip.safetensors")
    assert VideoFeatures.load(tmp_path / "clip.safetensors").num_frames == 3


def spoil(name: str, tensors: dict[str, torch.Tensor]) -> None:
    """One thing that no file of ours has, into the tensors of one."""
    kind, _, what = name.partition(" ")
    value = tensors[kind]
    if what == "index":
        value[0, -1] = 10**6
    elif what == "negative":
        value[0, 0] = -1
    elif what == "nan":
        value.view(-1)[0] = float("nan")
    elif what == "range":
        value.view(-1)[0] = 2.0
    elif what == "type":
        tensors[kind] = value.double().to(torch.int32)
    elif what == "short":
        tensors[kind] = value[..., :-1].contiguous()
    elif what == "batch":
        tensors[kind] = torch.cat([value, value])
    elif what == "empty":
        tensors[kind] = value[..., :0].contiguous()


@pytest.mark.parametrize("name", [
    "kept_indices index", "kept_indices negative", "run_slots index", "run_slots negative", "kept_indices type",
    "kept_tokens nan", "kept_features nan", "log_significance nan", "deepstack.1 nan", "timestamps nan",
    "significance range", "places range", "mass_positions range", "run_weights range", "run_weights negative",
    "kept_tokens short", "kept_features batch", "kept_tokens batch", "deepstack.0 short", "timestamps short",
    "significance short", "significance empty", "kept_mask type", "run_slots short", "kept_tokens empty",
])  # fmt: skip
def test_a_file_with_impossible_numbers_is_refused(features: VideoFeatures, tmp_path: Path, name: str):
    path = tmp_path / "clip.safetensors"
    features.save(path)
    tensors = load_file(path)
    spoil(name, tensors)
    save_file(tensors, path, {"format": "linvt-video-features-3", "container": "tuple", "grid_size": "3x5"})
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path), "Encode the video again")


@pytest.mark.parametrize(
    "changed", [{"grid_size": "3x400"}, {"grid_size": "0x5"}, {"grid_size": "x"}, {"container": "heap"}]
)
def test_a_file_that_does_not_say_how_its_tokens_lie_is_refused(
    features: VideoFeatures, tmp_path: Path, changed: dict[str, str]
):
    path = tmp_path / "clip.safetensors"
    features.save(path)
    metadata = {"format": "linvt-video-features-3", "container": "tuple", "grid_size": "3x5", **changed}
    save_file(load_file(path), path, metadata)
    check_refused(lambda: VideoFeatures.load(path), LinVTInputError, str(path), "Encode the video again")
