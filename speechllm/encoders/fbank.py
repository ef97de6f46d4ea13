"""Kaldi filter banks as SeamlessM4T takes them, batched and on the device of the audio (spec §2.3)."""

import torch
from torch import Tensor, nn

from speechllm.batch import SAMPLE_RATE, lengths_to_mask, to_device, without_autocast, zero_padding

# Shape legend beyond batch.py: M frames of 25 ms, 100 a second; N mel bins.
WINDOW = 400
HOP = 160
N_FFT = 512
MEL_BINS = 80
STACK = 2
MIN_SAMPLES = WINDOW + HOP * (STACK - 1)
MEL_FLOOR = 1.192092955078125e-07
VARIANCE_FLOOR = 1e-7


class StackedFbank(nn.Module):
    """Log-mel filter banks, normalised and stacked in pairs; equal to Hugging Face's extractor for each utterance.

    Each bin is brought to zero mean and unit variance over the utterance's own frames. An odd last frame counts for
    these figures and is then left out. Like the extractor this counts in float64: the logarithm makes float32's
    rounding of weak bins visible, and a bin that never changes, as in silence, would be divided by next to nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            num_frequency_bins=N_FFT // 2 + 1,
            num_mel_filters=MEL_BINS,
            min_frequency=20,
            max_frequency=SAMPLE_RATE // 2,
            sampling_rate=SAMPLE_RATE,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        # Not buffers: `Trainer(precision="bf16-true")` would round them, and the features with them.
        self._filters = torch.from_numpy(filters).double()
        self._window = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64).pow(0.85)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute stacked features.

        Args:
            audio: (B, T) float, as long as the longest utterance; padding is ignored.
            audio_lengths: (B,) int64 on the CPU, at least :data:`MIN_SAMPLES`.

        Returns:
            (B, M // 2, 160) float32 at 50 Hz, zero past each length, and their lengths (B,).
        """
        frames = (audio_lengths - WINDOW) // HOP + 1
        with without_autocast(audio.device):
            audio = audio.double().masked_fill(~lengths_to_mask(audio_lengths, audio.shape[1], audio.device), 0)
            values = _normalize(self._log_mel(audio), frames).float()
        rows, size, bins = values.shape
        lengths = frames // STACK
        values = values[:, : size - size % STACK].reshape(rows, size // STACK, STACK * bins)
        return zero_padding(values, lengths), lengths

    def _log_mel(self, audio: Tensor) -> Tensor:
        """Return the logarithm of the mel energies (B, M, N) of audio (B, T)."""
        self._filters, self._window = self._filters.to(audio.device), self._window.to(audio.device)
        frames = (audio * 2**15).unfold(1, WINDOW, HOP)  # Kaldi reads 16-bit integers
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        power = torch.fft.rfft((frames - 0.97 * before) * self._window, n=N_FFT).abs().square()
        mel: Tensor = power @ self._filters
        return mel.clamp(min=MEL_FLOOR).log()


def _normalize(values: Tensor, lengths: Tensor) -> Tensor:
    """Return values (B, M, N) with zero mean and unit variance (ddof 1) over each utterance's own frames."""
    count = to_device(lengths, values.device)[:, None, None]
    mean = zero_padding(values, lengths).sum(dim=1, keepdim=True) / count
    centred = zero_padding(values - mean, lengths)
    variance = centred.square().sum(dim=1, keepdim=True) / (count - 1)
    return centred / (variance + VARIANCE_FLOOR).sqrt()
