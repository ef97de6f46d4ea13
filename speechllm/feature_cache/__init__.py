"""Frames of frozen encoders on disk: computed once, read by every adapter, LLM and epoch."""
