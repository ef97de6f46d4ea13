"""HuBERT, mHuBERT and Japanese HuBERT, in batches that equal single utterances (spec §2.4)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.attention_masks import attention_mask
from speechllm.batch import SAMPLE_RATE, Frames, lengths_to_mask, to_device, zero_padding
from speechllm.encoders.base import Encoder
from speechllm.encoders.loading import check_source, load_pretrained, refuse_missing
from speechllm.encoders.spec_augment import SpecAugment
from speechllm.encoders.waveform import normalize_waveform
from speechllm.errors import UserError
from speechllm.random_weights import random_config
from speechllm.registry import ENCODERS
from speechllm.tuning import parse_dtype

# The stock SpecAugment and LayerDrop are off, and the mask embedding is not built.
WITHOUT_DROPPING = {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}
WITH_MASK_EMBEDDING = {**WITHOUT_DROPPING, "mask_time_prob": 0.05}  # any share builds it


@ENCODERS.register("hubert")
class HubertEncoder(Encoder):
    """HuBERT of both families: layer norm in every convolution (large), or group norm after the first (base).

    The stock group norm pools over time, padding included; here it pools over each utterance's own frames, so that a
    batch gives what stock HuBERT gives for each utterance alone. LayerDrop is off, also in training: a layer that is
    left out has no gradient, and distributed training waits for it.

    Args:
        pretrained: Checkpoint name or folder (``facebook/hubert-large-ls960-ft``, ``utter-project/mHuBERT-147``,
            ``rinna/japanese-hubert-base``); None builds random weights from ``config``.
        config: Fields of ``transformers.HubertConfig``, for random weights only.
        revision: Git revision of the checkpoint.
        tuning: One of :data:`speechllm.tuning.TUNING_MODES`.
        lora: Options of LoRA, for the modes that have it; its default targets are ``q_proj`` and ``v_proj``.
        dtype: Number format of the weights: ``float32``, ``bfloat16`` or ``float16``.
        freeze_feature_encoder: Keep the convolutions over the waveform frozen whatever ``tuning`` says.
        ctc_head: Also load the checkpoint's CTC head and give its logits with the frames; it stays frozen.
        do_normalize: Bring each waveform to zero mean and unit variance; None does what the checkpoint's
            ``preprocessor_config.json`` says, and nothing with random weights.
        spec_augment: Masks over what the convolutions give, in training, see
            :class:`speechllm.encoders.spec_augment.SpecAugmentOptions`; ``{}`` for its defaults, none where null. In
            place of a masked frame stands the checkpoint's own mask embedding, which is not trained further.
    """

    tiny: ClassVar[dict[str, Any]] = {
        "config": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "conv_dim": [8] * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        }
    }
    frame_rate = 50.0  # of every released checkpoint

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        revision: str | None = None,
        tuning: str = "frozen",
        lora: dict[str, Any] | None = None,
        dtype: str = "float32",
        freeze_feature_encoder: bool = False,
        ctc_head: bool = False,
        do_normalize: bool | None = None,
        spec_augment: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.check_tuning(tuning, lora)
        check_source("hubert", pretrained, config)
        self.pretrained = pretrained
        self.spec_augment = SpecAugment.build(spec_augment, tuning)
        self.do_normalize = _normalizes(pretrained, revision) if do_normalize is None else do_normalize
        self.hubert: Any
        self.ctc_head: nn.Linear | None
        self.hubert, self.ctc_head, embedding = _load(
            pretrained, config, revision, parse_dtype(dtype), ctc_head, spec_augment is not None
        )
        # Neither a weight nor in checkpoints: those of runs with and without masks are of one form.
        self.register_buffer("mask_embedding", embedding, persistent=False)
        self.ctc_blank = self.hubert.config.pad_token_id
        self.dim = self.hubert.config.hidden_size
        self._strides = list(zip(self.hubert.config.conv_kernel, self.hubert.config.conv_stride, strict=True))
        self.min_samples, hop = _receptive_field(self._strides)
        self.frame_rate = SAMPLE_RATE / hop
        self.apply_tuning(tuning, lora)
        if freeze_feature_encoder:
            self.hubert.feature_extractor.requires_grad_(False)
        if self.ctc_head is not None:
            self.ctc_head.requires_grad_(False)

    def output_lengths(self, audio_lengths: Tensor) -> Tensor:
        """Return (samples - 400) // 320 + 1 with the convolutions of every released HuBERT (spec §2.1)."""
        for kernel, stride in self._strides:
            audio_lengths = (audio_lengths - kernel) // stride + 1
        return audio_lengths

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Frames:
        """Encode a batch; see :meth:`Encoder.forward`.

        Raises:
            UserError: If an utterance is too short to give a frame.
        """
        self.check_durations(audio_lengths, [f"row {row}" for row in range(len(audio_lengths))])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            lengths = self.output_lengths(audio_lengths)
            audio = self._prepare(audio[:, : int(audio_lengths.max())].float(), audio_lengths)
            hidden = self.hubert.feature_projection(self._convolve(audio, audio_lengths))
            if self.spec_augment is not None:
                hidden = self.spec_augment(hidden, lengths, self.frame_rate, self.mask_embedding)
            values = zero_padding(self._contextualize(hidden, lengths), lengths)
            if self.ctc_head is None:
                return Frames(values, lengths)
            return Frames(values, lengths, zero_padding(self.ctc_head(values).float(), lengths), self.ctc_blank)

    def _prepare(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        """Return the waveform (B, T) as the checkpoint was trained on it, zero past each length."""
        if self.do_normalize:
            return normalize_waveform(audio, audio_lengths)
        return audio.masked_fill(~lengths_to_mask(audio_lengths, audio.shape[1], audio.device), 0)

    def _convolve(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        """Run the convolutions over the waveform (B, T); return (B, F, C).

        They have no padding of their own, so that a frame within an utterance's length sees that utterance only.
        """
        hidden: Tensor
        first, *rest = self.hubert.feature_extractor.conv_layers
        hidden = audio[:, None].to(first.conv.weight.dtype)
        if self.hubert.config.feat_extract_norm == "group":
            kernel, stride = self._strides[0]
            hidden = group_norm(first.layer_norm, first.conv(hidden), (audio_lengths - kernel) // stride + 1)
            hidden = first.activation(hidden)
        else:
            hidden = first(hidden)
        for layer in rest:
            hidden = layer(hidden)
        return hidden.transpose(1, 2)

    def _contextualize(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Run the transformer on (B, F, E) with lengths (B,); return (B, F, E).

        The stock forward asks the device whether there is padding.
        """
        net = self.hubert.encoder
        norm_first = self.hubert.config.do_stable_layer_norm
        hidden = zero_padding(hidden, lengths)
        hidden = hidden + net.pos_conv_embed(hidden)
        hidden = net.dropout(hidden if norm_first else net.layer_norm(hidden))
        mask = attention_mask(self.hubert.config, hidden, lengths)
        for layer in net.layers:
            hidden = layer(hidden, attention_mask=mask)
        normed: Tensor = net.layer_norm(hidden) if norm_first else hidden
        return normed


def group_norm(norm: nn.GroupNorm, values: Tensor, lengths: Tensor) -> Tensor:
    """Apply HuBERT's group norm, a channel a group, with statistics over each utterance's own positions.

    Args:
        norm: The stock norm, with its weights.
        values: (B, C, N).
        lengths: (B,) int64 on the CPU, valid positions.

    Returns:
        (B, C, N) in the dtype of ``values``; arbitrary past each length.
    """
    padding = ~lengths_to_mask(lengths, values.shape[2], values.device)[:, None]
    count = to_device(lengths, values.device)[:, None, None]
    wide = values.float()
    centred = wide - wide.masked_fill(padding, 0).sum(dim=2, keepdim=True) / count
    variance = centred.masked_fill(padding, 0).square().sum(dim=2, keepdim=True) / count
    scale = norm.weight.float()[:, None] * (variance + norm.eps).rsqrt()
    return (centred * scale + norm.bias.float()[:, None]).to(values.dtype)


def _receptive_field(strides: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the samples that one frame sees, and those between two frames."""
    samples, hop = 1, 1
    for kernel, stride in reversed(strides):
        samples, hop = (samples - 1) * stride + kernel, hop * stride
    return samples, hop


def _normalizes(pretrained: str | None, revision: str | None) -> bool:
    """Return whether the checkpoint was trained on normalised waveforms."""
    from transformers import Wav2Vec2FeatureExtractor

    if pretrained is None:
        return False
    try:
        return bool(Wav2Vec2FeatureExtractor.from_pretrained(pretrained, revision=revision).do_normalize)
    except OSError as error:
        msg = (
            f"'{pretrained}' has no preprocessor_config.json that says whether it takes normalised waveforms. Set the "
            f"encoder option `do_normalize` to true or false, as it was trained; or check the name."
        )
        raise UserError(msg) from error


def _load(
    pretrained: str | None,
    config: dict[str, Any] | None,
    revision: str | None,
    dtype: torch.dtype,
    ctc_head: bool,
    mask_embedding: bool,
) -> tuple[Any, nn.Linear | None, Tensor | None]:
    """Return HuBERT and, where they are asked for, its CTC head and its mask embedding."""
    from transformers import HubertConfig, HubertForCTC, HubertModel

    missing: list[str] = []
    if pretrained is None:
        full_config = random_config(HubertConfig, {**(config or {}), **WITHOUT_DROPPING})
        model = (HubertForCTC if ctc_head else HubertModel)(full_config).to(dtype)
    else:
        model, missing = load_pretrained(
            HubertForCTC if ctc_head else HubertModel,
            pretrained,
            revision,
            dtype,
            ignored=(r"^lm_head\.", r"masked_spec_embed$"),
            **(WITH_MASK_EMBEDDING if mask_embedding else WITHOUT_DROPPING),
        )
        if any(key.startswith("lm_head.") for key in missing):
            msg = (
                f"`ctc_head: true` needs a checkpoint with a CTC head, and '{pretrained}' has none. Give one that was "
                f"fine-tuned with CTC, such as facebook/hubert-large-ls960-ft, or leave `ctc_head` out."
            )
            raise UserError(msg)
        refuse_missing(pretrained, [key for key in missing if not key.endswith("masked_spec_embed")])
    hubert, head = (model.hubert, model.lm_head) if ctc_head else (model, None)
    return hubert, head, _take_mask_embedding(hubert, missing) if mask_embedding else None


def _take_mask_embedding(hubert: Any, missing: list[str]) -> Tensor:
    """Return what a checkpoint has learned to put for masked frames (E,), and remove its parameter from HuBERT.

    Where it was not loaded it is zero: a random one would be another each time the encoder is built.
    """
    learned: Tensor | None = getattr(hubert, "masked_spec_embed", None)
    if learned is None or any(key.endswith("masked_spec_embed") for key in missing):
        learned = torch.zeros(hubert.config.hidden_size, dtype=next(hubert.parameters()).dtype)
    if hasattr(hubert, "masked_spec_embed"):
        del hubert.masked_spec_embed
    return learned.detach()
