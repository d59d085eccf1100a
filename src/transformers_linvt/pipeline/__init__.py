"""`pipeline("video-question-answering")`: videos and questions, or chats, in; answers and their evidence out."""

from .video_question_answering import VideoQuestionAnsweringPipeline


__all__ = ["VideoQuestionAnsweringPipeline"]
