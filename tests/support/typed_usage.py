"""
What a type checker sees of the package: `make types` looks at this file as it does at the package, nothing runs it.

Where a call gives one type or another, its arguments say which: nobody has to narrow a union. See also `py.typed`.
"""

from typing import Any, assert_type

from peft import PeftModel
from transformers.feature_extraction_utils import BatchFeature

from transformers_linvt import (
    LinVTConfig,
    LinVTForVideoQA,
    LinVTProcessor,
    LinVTSFTTrainer,
    VideoEvidence,
    VideoFeatures,
    VideoFrames,
    VideoQuestionAnsweringPipeline,
    load_for_training,
    read_video,
)


MESSAGES = [{"role": "user", "content": [{"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "What?"}]}]


def load(path: str) -> tuple[LinVTForVideoQA, LinVTProcessor]:
    """Both doors to a model, with and without what is beside it."""
    model, processor = LinVTForVideoQA.from_base(path, num_video_tokens=64), LinVTProcessor.from_base(path)
    assert_type(model, LinVTForVideoQA)
    assert_type(processor, LinVTProcessor)
    assert_type(LinVTForVideoQA.from_pretrained(path, dtype="auto"), LinVTForVideoQA)
    assert_type(LinVTForVideoQA.from_pretrained(path, output_loading_info=True), tuple[LinVTForVideoQA, dict])
    assert_type(LinVTProcessor.from_pretrained(path), LinVTProcessor)
    assert_type(LinVTConfig.from_pretrained(path), LinVTConfig)
    assert_type(load_for_training(path), PeftModel)
    return model, processor


def ask(model: LinVTForVideoQA, processor: LinVTProcessor, questions: list[str]) -> str:
    """One question has one answer, a list of them a list."""
    features = model.encode_video(**processor.video_inputs("clip.mp4", num_frames=8))
    assert_type(features, VideoFeatures)
    assert_type(model.answer(features, questions, processor=processor), list[str])
    answer = model.answer(features, "What?", processor=processor)
    assert_type(answer, str)
    return answer.strip()


def prepare(processor: LinVTProcessor) -> str:
    """A chat as text, as ids, or as inputs."""
    assert_type(read_video("clip.mp4", num_frames=8), VideoFrames)
    assert_type(processor(text="<video> What?", videos="clip.mp4"), BatchFeature)
    inputs = processor.apply_chat_template(MESSAGES, tokenize=True, return_dict=True, return_tensors="pt")
    assert_type(inputs, BatchFeature)
    assert_type(processor.apply_chat_template([MESSAGES, MESSAGES]), list[str])
    prompt = processor.apply_chat_template(MESSAGES, add_generation_prompt=True)
    assert_type(prompt, str)
    return prompt


def ask_pipeline(pipe: VideoQuestionAnsweringPipeline) -> str:
    """One video has a list of answers, a list of videos a list of lists."""
    assert_type(pipe.encode("clip.mp4"), VideoFeatures)
    assert_type(pipe.inspect("clip.mp4", "What?"), VideoEvidence)
    answers = pipe(video="clip.mp4", question="What?")
    return answers[0]["answer"]


def train(model: LinVTForVideoQA, processor: LinVTProcessor, dataset: Any) -> LinVTSFTTrainer:
    """A trainer takes the model as it was loaded."""
    return LinVTSFTTrainer(model, train_dataset=dataset, processing_class=processor)
