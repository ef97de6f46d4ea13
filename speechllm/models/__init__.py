"""Models under Lightning: the parts put together, trained and tested."""

from speechllm.models.base import SpeechToText
from speechllm.models.speech_llm import SpeechLLM

__all__ = ["SpeechLLM", "SpeechToText"]
