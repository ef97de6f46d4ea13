"""The speech encoder of SeamlessM4T v2: one frame for each 160 ms, independent of the batch (spec §2.3)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.attention_masks import attention_mask
from speechllm.batch import SAMPLE_RATE, Frames, lengths_to_mask, zero_padding
from speechllm.encoders.base import Encoder
from speechllm.encoders.fbank import HOP, MEL_BINS, MIN_SAMPLES, STACK, WINDOW, StackedFbank
from speechllm.encoders.loading import check_source, load_pretrained, refuse_missing
from speechllm.encoders.spec_augment import SpecAugment
from speechllm.random_weights import random_config, random_network
from speechllm.registry import ENCODERS
from speechllm.tuning import parse_dtype

# Shape legend beyond batch.py: L stacked frames (50 Hz).
OTHER_PARTS = (r"^text_encoder\.", r"^text_decoder\.", r"^shared\.", r"^lm_head\.", r"^t2u_model\.", r"^vocoder\.")


@ENCODERS.register("seamless")
class SeamlessEncoder(Encoder):
    """SeamlessM4T v2's speech encoder, with the padding masked in its length adapter too.

    The stock adapter's strided convolutions see the padding, so that an utterance's last frames depend on its batch
    mates. Here they see zeros, as for an utterance alone; where its number of filter-bank frames is even, the result is
    the stock model's. LayerDrop is off, also in training: a layer that is left out has no gradient, and distributed
    training waits for it.

    Args:
        pretrained: Checkpoint name or folder (``facebook/seamless-m4t-v2-large``), of the whole model or of its speech
            encoder alone; None builds random weights from ``config``.
        config: Fields of ``transformers.SeamlessM4Tv2Config``, for random weights only.
        revision: Git revision of the checkpoint.
        tuning: One of :data:`speechllm.tuning.TUNING_MODES`.
        lora: Options of LoRA, for the modes that have it; its default targets are ``linear_q`` and ``linear_v``.
        dtype: Number format of the weights: ``float32``, ``bfloat16`` or ``float16``.
        spec_augment: Masks over the filter banks in training, see
            :class:`speechllm.encoders.spec_augment.SpecAugmentOptions`; ``{}`` for its defaults, none where null.
    """

    tiny: ClassVar[dict[str, Any]] = {
        "config": {
            "hidden_size": 16,
            "speech_encoder_layers": 2,
            "speech_encoder_attention_heads": 2,
            "speech_encoder_intermediate_size": 32,
        }
    }
    min_samples = MIN_SAMPLES
    frame_rate = 6.25  # of every released checkpoint

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        revision: str | None = None,
        tuning: str = "frozen",
        lora: dict[str, Any] | None = None,
        dtype: str = "float32",
        spec_augment: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.check_tuning(tuning, lora)
        check_source("seamless", pretrained, config)
        self.pretrained = pretrained
        self.spec_augment = SpecAugment.build(spec_augment, tuning)
        self.encoder: Any = _load_encoder(pretrained, config, revision, parse_dtype(dtype))
        self.fbank = StackedFbank()
        self.dim = self.encoder.config.hidden_size
        stride = HOP * STACK * self.encoder.config.adaptor_stride**self.encoder.config.num_adapter_layers
        self.frame_rate = SAMPLE_RATE / stride
        self.apply_tuning(tuning, lora)

    def output_lengths(self, audio_lengths: Tensor) -> Tensor:
        """Return (samples - 400) // 160 + 1 windows, halved, then // 8 + 1 (spec §2.1)."""
        lengths = ((audio_lengths - WINDOW) // HOP + 1) // STACK
        for layer in self.encoder.adapter.layers:
            lengths = _pooled_lengths(layer, lengths)
        return lengths

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Frames:
        """Encode a batch; see :meth:`Encoder.forward`.

        Raises:
            UserError: If an utterance is too short to give a frame.
        """
        self.check_durations(audio_lengths, [f"row {row}" for row in range(len(audio_lengths))])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features, lengths = self.fbank(audio[:, : int(audio_lengths.max())], audio_lengths)
            if self.spec_augment is not None:
                # As frames of 10 ms, so that a band is the same in both frames of a stack.
                frames = features.unflatten(2, (STACK, MEL_BINS)).flatten(1, 2)
                frames = self.spec_augment(frames, lengths * STACK, SAMPLE_RATE / HOP)
                features = frames.reshape(features.shape)
            return Frames(*self._encode(features, lengths))

    def _encode(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network on features (B, L, 160) with lengths (B,); return frames (B, F, E) and lengths (B,)."""
        net = self.encoder
        hidden = self._contextualize(net.feature_projection(features), lengths)
        hidden = hidden + 0.5 * net.intermediate_ffn(hidden)
        for layer in net.adapter.layers:
            hidden, lengths = self._shorten(layer, hidden, lengths)
        return zero_padding(net.inner_layer_norm(hidden), lengths), lengths

    def _contextualize(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Run the conformer on (B, L, E) with lengths (B,); return (B, L, E).

        The stock forward asks the device whether there is padding.
        """
        conformer, config = self.encoder.encoder, self.encoder.config
        valid = lengths_to_mask(lengths, hidden.shape[1], hidden.device)
        if config.speech_encoder_chunk_size is not None and hidden.shape[1] > config.speech_encoder_chunk_size:
            mask = conformer._apply_chunk_attention(valid, hidden)
        else:
            mask = attention_mask(config, hidden, lengths)
        hidden = conformer.dropout(zero_padding(hidden, lengths))
        for layer in conformer.layers:
            hidden = layer(hidden, attention_mask=mask, conv_attention_mask=valid)
        normed: Tensor = conformer.layer_norm(hidden)
        return normed

    def _shorten(self, layer: Any, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run one adapter layer on (B, L, E) with lengths (B,), the padding zeroed before both convolutions."""
        residual = _strided(layer, layer.residual_layer_norm, layer.residual_conv, hidden, lengths)
        hidden = _strided(layer, layer.self_attn_layer_norm, layer.self_attn_conv, hidden, lengths)
        lengths = _pooled_lengths(layer, lengths)
        mask = attention_mask(self.encoder.config, hidden, lengths)
        attended, _ = layer.self_attn(hidden, attention_mask=mask)
        hidden = residual + layer.self_attn_dropout(attended)
        return hidden + layer.ffn(layer.ffn_layer_norm(hidden)), lengths


def _strided(layer: Any, norm: nn.Module, conv: nn.Module, hidden: Tensor, lengths: Tensor) -> Tensor:
    """Return the gated strided convolution (B, F, E) of normalised states (B, L, E)."""
    normed = zero_padding(norm(hidden), lengths)
    gated: Tensor = layer.activation(conv(normed.transpose(1, 2)))
    return gated.transpose(1, 2)


def _pooled_lengths(layer: Any, lengths: Tensor) -> Tensor:
    pooled: Tensor = (lengths + 2 * (layer.stride // 2) - layer.kernel_size) // layer.stride + 1
    return pooled


def _load_encoder(
    pretrained: str | None, config: dict[str, Any] | None, revision: str | None, dtype: torch.dtype
) -> Any:
    """Load the speech encoder without the other parts that stand in the same checkpoint."""
    from transformers import SeamlessM4Tv2Config
    from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

    if pretrained is None:
        fields = {**(config or {}), "speech_encoder_layerdrop": 0.0}
        return random_network(SeamlessM4Tv2SpeechEncoder, random_config(SeamlessM4Tv2Config, fields)).to(dtype)
    encoder, missing = load_pretrained(
        SeamlessM4Tv2SpeechEncoder,
        pretrained,
        revision,
        dtype,
        ignored=OTHER_PARTS,
        key_mapping={r"^speech_encoder\.": ""},
        speech_encoder_layerdrop=0.0,
    )
    refuse_missing(pretrained, missing)
    return encoder
