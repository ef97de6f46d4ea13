"""Whisper's encoder on un-padded audio: a 5 s clip costs 5 s, and padding is masked (spec §2.2)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechllm.attention_masks import attention_mask
from speechllm.batch import SAMPLE_RATE, Frames, lengths_to_mask, to_device, without_autocast, zero_padding
from speechllm.encoders.base import Encoder
from speechllm.encoders.loading import check_source
from speechllm.encoders.spec_augment import SpecAugment
from speechllm.encoders.waveform import normalize_waveform
from speechllm.errors import UserError
from speechllm.random_weights import random_config, random_network
from speechllm.registry import ENCODERS
from speechllm.tuning import parse_dtype

# Shape legend beyond batch.py: M mel frames (100 Hz), N mel bins.
N_FFT = 400
HOP = 160
WINDOW_S = 30
WINDOW_SAMPLES = WINDOW_S * SAMPLE_RATE


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram on the device, equal to Hugging Face's extractor for each utterance.

    Args:
        mel_bins: Number of mel filters N (80, or 128 for large-v3).
        do_normalize: Bring each utterance to zero mean and unit variance first, as the extractor's option of that name.
    """

    def __init__(self, mel_bins: int, do_normalize: bool = False) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            num_frequency_bins=1 + N_FFT // 2,
            num_mel_filters=mel_bins,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.do_normalize = do_normalize
        # Not buffers: `Trainer(precision="bf16-true")` would round them, and the features with them.
        self._filters = torch.from_numpy(filters).float()
        self._window = torch.hann_window(N_FFT, dtype=torch.float32)

    def forward(self, audio: Tensor, audio_lengths: Tensor, mel_frames: int) -> Tensor:
        """Compute log-mel features.

        The extractor pads with zeros to 30 s and takes the maximum of its clamp over the whole window. Two frames past
        the last one of an utterance still overlap it; they are computed so that the maximum is the same, then cut.

        Args:
            audio: (B, T) float32.
            audio_lengths: (B,) int64 on the CPU, at most 30 s.
            mel_frames: Number of frames M to return.

        Returns:
            (B, N, M) float32; the frames past an utterance's end are those of silence.
        """
        self._filters, self._window = self._filters.to(audio.device), self._window.to(audio.device)
        audio = audio.float().masked_fill(~lengths_to_mask(audio_lengths, audio.shape[1], audio.device), 0)
        if self.do_normalize:
            audio = normalize_waveform(audio, audio_lengths)
        needed = min((mel_frames + 2) * HOP + N_FFT, WINDOW_SAMPLES)
        audio = nn.functional.pad(audio, (0, max(0, needed - audio.shape[1])))[:, :needed]
        with without_autocast(audio.device):
            spectrum = torch.stft(audio, N_FFT, HOP, window=self._window, return_complex=True)
            power = spectrum[..., :-1].abs().square()
            log_mel = (self._filters.T @ power).clamp(min=1e-10).log10()
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        return ((log_mel + 4.0) / 4.0)[..., :mel_frames]


@ENCODERS.register("whisper")
class WhisperEncoder(Encoder):
    """Whisper's encoder with attention and convolutions masked at each utterance's end.

    At 3,000 mel frames it equals Hugging Face's encoder exactly; for shorter audio it differs from the stock model,
    which attends to the silence that fills 30 s. ``pad_to_30s`` gives the stock behaviour.

    Args:
        pretrained: Checkpoint name or folder (``openai/whisper-large-v3``); None builds random weights from ``config``.
        config: Fields of ``transformers.WhisperConfig``, for random weights only.
        revision: Git revision of the checkpoint.
        tuning: One of :data:`speechllm.tuning.TUNING_MODES`.
        lora: Options of LoRA for ``tuning: lora`` and ``qlora``, see :class:`speechllm.lora.LoraOptions`.
        dtype: Number format of the weights: ``float32``, ``bfloat16`` or ``float16``.
        pad_to_30s: Pad every utterance with silence to 30 s and attend to it, as the stock model does; 1,500 frames.
        trim_to_speech: With ``pad_to_30s``, return only the frames of the utterance itself.
        do_normalize: Normalise each waveform before the spectrogram (off in every released Whisper).
        long_audio: What happens beyond 30 s: ``error``, or ``chunk`` into windows of 30 s whose frames are joined.
        spec_augment: Masks over the spectrogram in training, see
            :class:`speechllm.encoders.spec_augment.SpecAugmentOptions`; ``{}`` for its defaults, none where null.
    """

    tiny: ClassVar[dict[str, Any]] = {
        "config": {
            "d_model": 16,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "num_mel_bins": 80,
        }
    }
    frame_rate = 50.0

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        revision: str | None = None,
        tuning: str = "frozen",
        lora: dict[str, Any] | None = None,
        dtype: str = "float32",
        pad_to_30s: bool = False,
        trim_to_speech: bool = False,
        do_normalize: bool = False,
        long_audio: Literal["error", "chunk"] = "error",
        spec_augment: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_source("whisper", pretrained, config)
        if trim_to_speech and not pad_to_30s:
            msg = "`trim_to_speech` only means something with `pad_to_30s: true`."
            raise UserError(msg)
        if long_audio not in ("error", "chunk"):
            msg = f"`long_audio` must be 'error' or 'chunk', but is '{long_audio}'."
            raise UserError(msg)
        self.pretrained = pretrained
        self.pad_to_30s = pad_to_30s
        self.trim_to_speech = trim_to_speech
        self.spec_augment = SpecAugment.build(spec_augment, tuning)
        self.encoder: Any = _load_encoder(pretrained, config, revision, parse_dtype(dtype))
        self.log_mel = LogMel(self.encoder.config.num_mel_bins, do_normalize)
        self.dim = self.encoder.config.d_model
        self.max_duration_s = WINDOW_S if long_audio == "error" else None
        self.apply_tuning(tuning, lora)
        # Sinusoids are not learned; loading a checkpoint forgets that.
        self.encoder.embed_positions.requires_grad_(False)

    def output_lengths(self, audio_lengths: Tensor) -> Tensor:
        """Return ceil(samples / 160) mel frames halved by the strided convolution, window by window (spec §2.1)."""
        if self.pad_to_30s and not self.trim_to_speech:
            windows = (audio_lengths + WINDOW_SAMPLES - 1) // WINDOW_SAMPLES
            return windows * (WINDOW_SAMPLES // HOP // 2)
        full, rest = audio_lengths // WINDOW_SAMPLES, audio_lengths % WINDOW_SAMPLES
        rest_frames = (_mel_lengths(rest) + 1) // 2
        return full * (WINDOW_SAMPLES // HOP // 2) + rest_frames

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Frames:
        """Encode a batch; see :meth:`Encoder.forward`.

        Raises:
            UserError: If an utterance is longer than 30 s and ``long_audio`` is ``error``.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            longest = int(audio_lengths.max())
            if longest <= WINDOW_SAMPLES:
                return self._encode_windows(audio, audio_lengths)
            self.check_durations(audio_lengths, [f"row {row}" for row in range(len(audio_lengths))])
            return self._encode_chunks(audio, audio_lengths, -(-longest // WINDOW_SAMPLES))

    def _encode_chunks(self, audio: Tensor, audio_lengths: Tensor, windows: int) -> Frames:
        """Encode windows of 30 s as utterances of their own and join their frames."""
        lengths = (audio_lengths[:, None] - torch.arange(windows) * WINDOW_SAMPLES).clamp(0, WINDOW_SAMPLES)
        rows, columns = lengths.nonzero(as_tuple=True)  # on the CPU; an utterance's windows follow one another
        size = windows * WINDOW_SAMPLES
        audio = nn.functional.pad(audio, (0, size - audio.shape[1])).reshape(-1, WINDOW_SAMPLES)
        pieces = audio[to_device(rows * windows + columns, audio.device)]
        encoded = self._encode_windows(pieces, lengths[rows, columns])
        out_lengths = torch.zeros_like(audio_lengths).index_add(0, rows, encoded.lengths)
        # All windows but an utterance's last are full, so that its frames stand without a gap.
        window_frames = encoded.values.shape[1]
        first = (rows[:, None] < torch.arange(len(audio_lengths))).sum(dim=0) * window_frames
        places = first[:, None] + torch.arange(int(out_lengths.max()))
        places = places.clamp(max=len(rows) * window_frames - 1)  # of the padding, which is zeroed
        values = encoded.values.flatten(0, 1)[to_device(places, audio.device)]
        return Frames(zero_padding(values, out_lengths), out_lengths)

    def _encode_windows(self, audio: Tensor, audio_lengths: Tensor) -> Frames:
        """Encode utterances of at most 30 s."""
        if self.pad_to_30s:
            mel_frames = WINDOW_SAMPLES // HOP
            mel_lengths = torch.full_like(audio_lengths, mel_frames)
        else:
            mel_lengths = _mel_lengths(audio_lengths)
            mel_frames = int(mel_lengths.max())
        mel = self.log_mel(audio, audio_lengths, mel_frames)
        if self.spec_augment is not None:
            frames = self.spec_augment(mel.transpose(1, 2), _mel_lengths(audio_lengths), SAMPLE_RATE / HOP)
            mel = frames.transpose(1, 2)
        values, lengths = self._encode_mel(mel, mel_lengths)
        if self.trim_to_speech:
            lengths = self.output_lengths(audio_lengths)
            values = values[:, : int(lengths.max())]
        return Frames(zero_padding(values, lengths), lengths)

    def _encode_mel(self, mel: Tensor, mel_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network on mel frames (B, N, M) with lengths (B,); return (B, F, E) and lengths (B,)."""
        net = self.encoder
        lengths = (mel_lengths + 1) // 2
        mel = zero_padding(mel.transpose(1, 2), mel_lengths).transpose(1, 2)
        hidden = nn.functional.gelu(net.conv1(mel.to(net.conv1.weight.dtype)))
        hidden = zero_padding(hidden.transpose(1, 2), mel_lengths).transpose(1, 2)
        hidden = nn.functional.gelu(net.conv2(hidden)).transpose(1, 2)
        hidden = hidden + net.embed_positions.weight[: hidden.shape[1]]
        hidden = nn.functional.dropout(hidden, p=net.dropout, training=self.training)
        mask = attention_mask(net.config, hidden, lengths)
        for layer in net.layers:
            hidden = layer(hidden, mask)
        return net.layer_norm(hidden), lengths


def _mel_lengths(audio_lengths: Tensor) -> Tensor:
    return (audio_lengths + HOP - 1) // HOP


def _load_encoder(
    pretrained: str | None, config: dict[str, Any] | None, revision: str | None, dtype: torch.dtype
) -> Any:
    """Load Hugging Face's encoder without the text decoder that stands in the same checkpoint."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFWhisperEncoder

    class EncoderOnly(HFWhisperEncoder):  # type: ignore[misc]  # transformers is untyped
        _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"decoder\.", r"proj_out\."]

    if pretrained is None:
        return random_network(HFWhisperEncoder, random_config(WhisperConfig, config or {})).to(dtype)
    try:
        encoder, info = EncoderOnly.from_pretrained(
            pretrained,
            revision=revision,
            dtype=dtype,
            key_mapping={r"^(model\.)?encoder\.": ""},
            output_loading_info=True,
        )
    except OSError as error:
        msg = (
            f"The Whisper checkpoint '{pretrained}' could not be loaded: {error} Give a name on the "
            f"Hugging Face hub or a folder with config.json and model.safetensors."
        )
        raise UserError(msg) from error
    if info["missing_keys"]:
        msg = f"'{pretrained}' is not a Whisper checkpoint: it lacks {sorted(info['missing_keys'])[:3]} and others."
        raise UserError(msg)
    return encoder
