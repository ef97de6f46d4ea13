"""Speech encoders joined to large language models by adapters, for speech recognition and translation."""

__version__ = "0.1.0.dev0"
