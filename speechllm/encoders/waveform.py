"""Waveform normalisation of each utterance, on the device of the audio."""

from torch import Tensor

from speechllm.batch import lengths_to_mask, to_device

VARIANCE_FLOOR = 1e-7


def normalize_waveform(audio: Tensor, audio_lengths: Tensor) -> Tensor:
    """Bring each utterance to zero mean and unit variance, as Hugging Face's ``Wav2Vec2FeatureExtractor`` does.

    Args:
        audio: (B, T) float32; padding is ignored.
        audio_lengths: (B,) int64 on the CPU.

    Returns:
        (B, T) float32, zero past each length.
    """
    padding = ~lengths_to_mask(audio_lengths, audio.shape[1], audio.device)
    count = to_device(audio_lengths, audio.device)[:, None]
    mean = audio.masked_fill(padding, 0).sum(dim=1, keepdim=True) / count
    centred = (audio - mean).masked_fill(padding, 0)
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred / (variance + VARIANCE_FLOOR).sqrt()
