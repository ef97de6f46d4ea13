"""Speech LLM: an encoder, an adapter and a decoder in a row."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

import speechllm.adapters
import speechllm.decoders
import speechllm.encoders
import speechllm.fusions  # noqa: F401  # the four imports register the parts
from speechllm.batch import AdapterOutput, Batch, Frames, Hypothesis
from speechllm.costs.flops import ModelShape
from speechllm.decoders.base import Decoding
from speechllm.errors import UserError
from speechllm.models.base import SpeechToText, StepLosses
from speechllm.models.checkpoint import find_checkpoint, read_checkpoint, saved_keys
from speechllm.models.compatibility import check_parts
from speechllm.models.feature_caches import attach_caches, report_misses
from speechllm.models.inference import Audio, Request, answer
from speechllm.models.initial_weights import find_initial, load_initial
from speechllm.models.publishing.exporting import find_export, is_export, read_export
from speechllm.models.sharding import check_decoder_shares, gather, release, shard, silence
from speechllm.models.sizing.shapes import shape_of, step_size
from speechllm.models.trained_parts import check_freeze, check_tuning, frozen_modules
from speechllm.models.watching.meter import StepWork
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS


class SpeechLLM(SpeechToText):
    """Encoder → adapter → LLM, each chosen by name in a recipe.

    Specs are checked at once; weights are loaded in :meth:`configure_model`, which Lightning calls after the data is
    prepared and :meth:`load` calls itself.

    Args:
        encoder: Encoder spec, ``{name: whisper, pretrained: openai/whisper-large-v3}``.
        adapter: Adapter spec, ``{name: conv, layers: 4}``; widths are filled in.
        decoder: Decoder spec, ``{name: causal_lm, pretrained: …, tuning: frozen}``.
        freeze: Modules that are not trained although they could be: ``[adapter]``, or a module inside a part such as
            ``encoder.fusion``. Encoders and LLMs are frozen by their own ``tuning``.
        init_from: Run folder or checkpoint of a run before this one, whose trained weights `fit` starts from where
            their names are in this recipe too; several checkpoints are averaged. A resumed run does not look at it.
        **options: Options of :class:`speechllm.models.base.SpeechToText`.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        adapter: dict[str, Any],
        decoder: dict[str, Any],
        freeze: Sequence[str] = (),
        init_from: str | list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        ENCODERS.check(encoder)
        ADAPTERS.check(adapter)
        DECODERS.check(decoder)
        check_tuning(ENCODERS, encoder)
        check_tuning(DECODERS, decoder)
        check_parts(encoder, adapter, decoder, self.loss_weights)
        self.specs = {"encoder": encoder, "adapter": adapter, "decoder": decoder}
        self.freeze_names = check_freeze(freeze)
        self.init_from = init_from
        self._has_trained_weights = False
        self._changed_keys: set[str] = set()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        """Check the metrics, and open the caches of frozen encoders for the data, before weights are loaded.

        Raises:
            UserError: If a metric cannot run, a cache is not there or of another encoder, or the decoder cannot be
                shared out as the strategy wants it.
        """
        super().setup(stage)
        check_decoder_shares(self.trainer.strategy, self.specs["decoder"], self.kv_cache)
        init_from = self.init_from if self.trainer.ckpt_path is None and not self._has_trained_weights else None
        attach_caches(self.specs["encoder"], getattr(self.trainer, "datamodule", None), stage, init_from)

    def configure_model(self) -> None:
        """Build the parts, once, and share them out where the trainer's strategy does."""
        if "encoder" not in dict(self.named_children()):
            self._build_parts()
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            shard(self, self.device_mesh)

    def _build_parts(self) -> None:
        DECODERS.get(self.specs["decoder"]["name"]).check_prompt(self.specs["decoder"])
        self.encoder = ENCODERS.build(self.specs["encoder"])
        self.decoder = DECODERS.build(self.specs["decoder"])
        self.adapter = ADAPTERS.build(
            self.specs["adapter"],
            in_dim=self.encoder.dim,
            out_dim=self.decoder.dim,
            vocab_size=self.decoder.vocab_size,
            frame_rate=self.encoder.frame_rate,
        )
        for module in frozen_modules(self, self.freeze_names):
            module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set training mode; what ``freeze`` names stays in evaluation mode."""
        super().train(mode)
        if "adapter" in dict(self.named_children()):
            for module in frozen_modules(self, self.freeze_names):
                module.eval()
        return self

    def on_fit_start(self) -> None:
        """Load the weights to start from, and check that target-only loss fits this language model.

        Raises:
            UserError: If the weights do not fit this recipe, or the loss does not fit.
        """
        # A resumed run has its weights, and so has a loaded model that is trained on.
        if self.init_from is not None and self.trainer.ckpt_path is None and not self._has_trained_weights:
            report, self._changed_keys = load_initial(self, find_initial(self.init_from), self.specs)
            rank_zero_info(report)
        with self.trainer.precision_plugin.forward_context():
            gather(self)
            self.decoder.check_output_layer()
            release(self)
            rank_zero_info(f"LLM attention: {self.decoder.attention_summary(self.device)}")

    def empty_loss(self) -> Tensor:
        """Return 0; of a model that is shared out, each process must take part in each step all the same."""
        if not isinstance(self, FSDPModule):
            return super().empty_loss()
        return 0 * self.losses(silence(self.device)).llm.sum()

    def checkpoint_keys(self) -> set[str]:
        """Return what no name brings back: what is trained, and frozen weights from ``init_from``."""
        return super().checkpoint_keys() | self._changed_keys

    def on_train_epoch_end(self) -> None:
        """Say what was left out or skipped, and how many utterances were not in a cache."""
        super().on_train_epoch_end()
        report_misses(self)

    def teardown(self, stage: str) -> None:
        """Say how many utterances were not in a cache since the last epoch's end."""
        super().teardown(stage)
        report_misses(self)

    def encode(self, batch: Batch) -> Frames:
        """Return the encoder's frames in the number format of the adapter's weights.

        The trainer's mixed precision would see to that; a model in a notebook has no trainer.
        """
        frames: Frames = self.encoder.encode(batch)
        weight = next(self.adapter.parameters(), frames.values)
        return replace(frames, values=frames.values.to(weight.dtype))

    def speech(self, batch: Batch, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Return the speech embeddings (B, S, H) of a batch.

        Args:
            batch: Utterances, each with audio.
            targets: Transcript token ids for adapters that learn from them.

        Raises:
            UserError: If an utterance is too short or too long for the encoder.
        """
        self.encoder.check_durations(batch.audio_lengths, batch.ids)
        once = sorted(set(batch.audio_of))
        frames = self.encode(batch if len(once) == len(batch) else batch.select(once))
        rows = [once.index(first) for first in batch.audio_of] if len(once) < len(batch) else None
        if rows is not None and targets is not None:
            frames = frames.select(rows)
        speech: AdapterOutput = self.adapter(frames, targets)
        if rows is not None and targets is None:  # nothing in it depends on what is asked of an utterance
            frames, speech = frames.select(rows), speech.select(rows)
        speech.stats["compression_ratio"] = frames.lengths.sum() / speech.lengths.sum()
        return speech

    def losses(self, batch: Batch) -> StepLosses:
        """Score target texts; see :meth:`SpeechToText.losses`."""
        targets = self.adapter.encode_targets(batch.transcripts) or self.decoder.transcript_ids(batch)
        speech = self.speech(batch, targets)
        output = self.decoder(speech, batch)
        work = None
        if (sizes := output.sizes) is not None:
            lengths = (speech.lengths.tolist(), sizes.positions, sizes.targets)
            work = StepWork(step_size(self, batch, *lengths, cached=bool(batch.features)), sizes.computed)
        return StepLosses(output.losses, output.target_lengths, speech.losses, speech.stats | output.stats, work)

    def shape(self) -> ModelShape:
        """Return what the model computes; see :func:`speechllm.models.sizing.shapes.shape_of`."""
        return shape_of(self)

    def loss_weight(self, name: str) -> float:
        """Return the weight of an auxiliary loss: the recipe's, else the adapter's own."""
        if name in self.loss_weights:
            return self.loss_weights[name]
        default: dict[str, float] = self.adapter.loss_weights
        return default[name] if name in default else super().loss_weight(name)

    def transcript_losses(self) -> list[str]:
        """Return the adapter's losses that have a weight; all of them are learned from transcripts."""
        weights = ADAPTERS.get(self.specs["adapter"]["name"]).loss_weights | self.loss_weights
        return [name for name, weight in weights.items() if weight]

    @torch.no_grad()
    def decode(self, batch: Batch, num_beams: int) -> list[Hypothesis]:
        """Decode; see :meth:`SpeechToText.decode`."""
        hypotheses = [Hypothesis() for _ in batch.ids]
        rows = [row for row, length in enumerate(batch.audio_lengths.tolist()) if length > 0]
        if rows:
            readable = batch.select(rows)
            limits = (self.max_new_tokens, self.tokens_per_second, self.extra_tokens, self.min_new_tokens)
            decoding = Decoding(num_beams, *limits, self.kv_cache)
            start_s = time.perf_counter()
            speech = self.speech(readable)
            # A GPU may still be busy with it; the decoder, which waits for its first token, then counts what is left.
            speech_s = time.perf_counter() - start_s
            for row, hypothesis in zip(rows, self.decoder.generate(speech, readable, decoding), strict=True):
                waited_s = hypothesis.first_token_s
                hypotheses[row] = replace(hypothesis, first_token_s=speech_s + waited_s if waited_s else 0.0)
        return hypotheses

    # A trained model in a notebook

    @classmethod
    def load(cls, run: str | Path, device: str | torch.device | None = None) -> Self:
        """Load a trained model.

        Args:
            run: Run folder (the best checkpoint by validation, else the last one), checkpoint file, folder that
                ``speechllm export`` wrote, or such a one on the Hugging Face hub: ``hf://OWNER/NAME``.
            device: Where to put it; a GPU where there is one.

        Raises:
            UserError: If there is no checkpoint, or it is not one of this class.
        """
        path = find_export(run)
        checkpoint = read_export(path) if is_export(path) else read_checkpoint(find_checkpoint(path))
        options = {key: value for key, value in checkpoint["hyper_parameters"].items() if not key.startswith("_")}
        if "tokenizer" in checkpoint:
            options["decoder"] = {**options["decoder"], "tokenizer": checkpoint["tokenizer"]}
        model = cls(**options)
        model.configure_model()
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"], strict=False)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.eval().to(device)

    def transcribe(
        self,
        audio: Audio | Sequence[Audio],
        source: str | None = None,
        sampling_rate: int | None = None,
        batch_seconds: float = 120.0,
    ) -> list[str]:
        """Transcribe audio in its own language.

        Args:
            audio: Paths of audio files (wav, flac, mp3, ogg; any rate and channel count), or arrays of samples; one or
                several.
            source: Language code of the speech; not needed where the model was trained on a single one.
            sampling_rate: Rate of arrays in Hz; 16 kHz where not given.
            batch_seconds: Seconds of audio decoded at once.

        Returns:
            One transcript an input, in order.

        Raises:
            UserError: If an input cannot be read, is too long, or the language is not known.
        """
        request = Request("asr", source, None, sampling_rate, batch_seconds)
        return [hypothesis.transcript for hypothesis in answer(self, audio, request)]

    def translate(
        self,
        audio: Audio | Sequence[Audio],
        target: str,
        source: str | None = None,
        sampling_rate: int | None = None,
        batch_seconds: float = 120.0,
    ) -> list[str]:
        """Translate speech into text of another language.

        Args:
            audio: As in :meth:`transcribe`.
            target: Language code of the translation.
            source: As in :meth:`transcribe`.
            sampling_rate: As in :meth:`transcribe`.
            batch_seconds: As in :meth:`transcribe`.

        Returns:
            One translation an input, in order.

        Raises:
            UserError: As :meth:`transcribe`.
        """
        request = Request("st", source, target, sampling_rate, batch_seconds)
        return [hypothesis.translation for hypothesis in answer(self, audio, request)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the tokenizer of random weights, which no name brings back."""
        super().on_save_checkpoint(checkpoint)
        if self.decoder.pretrained is None:
            checkpoint["tokenizer"] = self.decoder.tokenizer_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the weights, and that a tokenizer read from a file is the one trained with.

        Raises:
            UserError: If the checkpoint is of another recipe or another tokenizer.
        """
        super().on_load_checkpoint(checkpoint)
        self._has_trained_weights = True
        self._changed_keys = set(checkpoint["state_dict"]) - saved_keys(self)
        if checkpoint.get("tokenizer", self.decoder.tokenizer_json()) != self.decoder.tokenizer_json():
            msg = (
                f"The tokenizer '{self.specs['decoder'].get('tokenizer')}' is not the one that the checkpoint was "
                f"trained with; its file has changed since."
            )
            raise UserError(msg)
