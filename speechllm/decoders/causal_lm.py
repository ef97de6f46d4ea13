"""Any Hugging Face causal language model as decoder (spec §10.3, §12, §13.1)."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechllm.batch import AdapterOutput, Batch, Hypothesis
from speechllm.decoders.base import Decoder, DecoderOutput, Decoding
from speechllm.decoders.generation import FirstTokenClock, UtteranceLimit, cut_at_end
from speechllm.decoders.hugging_face import load_llm, random_llm
from speechllm.decoders.join import IGNORED, Joined, join
from speechllm.decoders.new_tokens import NewTokens, grow_vocabulary
from speechllm.decoders.prompt import Prompt
from speechllm.decoders.target_weights import TargetWeights
from speechllm.decoders.tokenizer import load_tokenizer
from speechllm.errors import UserError, did_you_mean
from speechllm.registry import DECODERS
from speechllm.tuning import parse_dtype

# Shape legend beyond batch.py: L positions of the joined sequence, N target tokens of the batch.


@DECODERS.register("causal_lm")
class CausalLM(Decoder):
    """A causal language model from the hub, from a folder, or with random weights from a configuration.

    Args:
        pretrained: Checkpoint name or folder; None builds random weights from ``config``.
        config: Fields of the model's configuration with ``model_type`` (``llama``, ``mistral``, ``gemma2``, ``qwen2``,
            ``gpt_neox``, …), for random weights only; the vocabulary size is the tokenizer's.
        tokenizer: Where the tokenizer comes from, see :func:`speechllm.decoders.tokenizer.load_tokenizer`; the
            checkpoint's own where not given, ``bytes`` with random weights.
        revision: Git revision of the checkpoint.
        tuning: One of :data:`speechllm.tuning.TUNING_MODES`.
        lora: Options of LoRA for ``tuning: lora`` and ``qlora``, see :class:`speechllm.lora.LoraOptions`.
        dtype: Number format of the weights: ``float32``, ``bfloat16`` or ``float16``.
        prompt: Options of :class:`speechllm.decoders.prompt.Prompt`. Tokens that its style adds to a checkpoint's
            vocabulary are trained whatever ``tuning`` says, see :class:`speechllm.decoders.new_tokens.NewTokens`.
        target_weights: Weights of the tokens of an answer, ``{transcript: 1.0, translation: 1.0}``, see
            :class:`speechllm.decoders.target_weights.TargetWeights`.
        scale_speech_embeds: Whether speech embeddings are scaled as the LLM scales its token embeddings (Gemma: by
            √H), which transformers before 5 did to all of its input (spec §12.7).
        max_length: Longest sequence of prompt, speech and answer, in positions; the model's own limit where smaller.
        attn_implementation: Attention of transformers; chosen automatically where not given (``eager`` for models that
            soft-cap attention scores, as Gemma 2 does: the fused kernels would leave the cap out).
    """

    tiny: ClassVar[dict[str, Any]] = {
        "config": {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        }
    }

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        revision: str | None = None,
        tuning: str = "frozen",
        lora: dict[str, Any] | None = None,
        dtype: str = "float32",
        prompt: dict[str, Any] | None = None,
        target_weights: dict[str, float] | None = None,
        scale_speech_embeds: bool = False,
        max_length: int = 2048,
        attn_implementation: str | None = None,
    ) -> None:
        super().__init__()
        if (pretrained is None) == (config is None):
            msg = "The decoder 'causal_lm' needs either `pretrained` (a checkpoint) or `config` (random weights)."
            raise UserError(msg)
        self.pretrained = pretrained
        self.target_weights = TargetWeights.parse(target_weights)
        self.tokenizer = load_tokenizer(tokenizer or pretrained or "bytes", revision)
        self.prompt = _build_prompt(self.tokenizer, prompt or {})
        if pretrained is not None:
            self.llm: Any = load_llm(pretrained, revision, parse_dtype(dtype), attn_implementation)
        else:
            self.llm = random_llm(config or {}, self.tokenizer, attn_implementation).to(parse_dtype(dtype))
        new_ids = self.prompt.new_ids if pretrained is not None else []  # random weights have rows for them already
        if new_ids:
            grow_vocabulary(self.llm, new_ids[0], len(new_ids))
        self.speech_scale = _embedding_scale(self.llm) if scale_speech_embeds else 1.0
        self.dim = self.llm.get_input_embeddings().weight.shape[1]
        self.vocab_size = len(self.tokenizer)
        self.max_length = min(max_length, getattr(self.llm.config, "max_position_embeddings", max_length))
        self.end_ids = _end_ids(self.llm, self.tokenizer, self.prompt)
        self._set_generation_config()
        self.apply_tuning(tuning, lora)
        self.new_tokens = NewTokens(self.llm, new_ids[0], len(new_ids)) if new_ids else None

    @classmethod
    def check_prompt(cls, spec: Mapping[str, Any]) -> None:
        """Load the tokenizer alone and build the prompt; see :meth:`Decoder.check_prompt`."""
        tokenizer = spec.get("tokenizer") or spec.get("pretrained") or "bytes"
        _build_prompt(load_tokenizer(tokenizer, spec.get("revision")), spec.get("prompt") or {})
        TargetWeights.parse(spec.get("target_weights"))

    def forward(self, speech: AdapterOutput, batch: Batch) -> DecoderOutput:
        """Score target texts; see :meth:`Decoder.forward`.

        Raises:
            UserError: If prompt and speech leave no room for an answer; the message names the utterance.
        """
        around = self._around(batch)
        parts = [
            self.prompt.answer_parts(task, transcript, translation)
            for task, transcript, translation in zip(batch.tasks, batch.transcripts, batch.translations, strict=True)
        ]
        answers, truncated = self._fit(around, speech.lengths.tolist(), [ids for ids, _ in parts], batch.ids)
        joined = self._join(around, speech, answers, "right")
        token_losses, scored = self.token_losses(joined)
        losses, part_losses = self.target_weights.apply(token_losses, scored, [tokens for _, tokens in parts])
        stats = {
            "truncated_targets": torch.tensor(truncated),
            "llm_positions": joined.mask.sum(),
            "speech_positions": speech.lengths.sum(),
        }
        return DecoderOutput(losses, scored.sum(dim=1), stats | part_losses)

    def token_losses(self, joined: Joined) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy (N,) float32 of each target token, and where it is predicted (B, L - 1) bool.

        Only the N positions that predict a target token go through the output layer.
        """
        hidden = self.llm.base_model(
            inputs_embeds=joined.embeds,
            attention_mask=joined.mask,
            position_ids=joined.position_ids,
            use_cache=False,
        ).last_hidden_state
        labels = joined.labels[:, 1:]
        scored = labels != IGNORED
        logits = self.output_logits(hidden[:, :-1][scored])  # (N, V)
        return nn.functional.cross_entropy(logits.float(), labels[scored], reduction="none"), scored

    def output_logits(self, hidden: Tensor) -> Tensor:
        """Map final hidden states (…, H) to logits (…, V) as the model's own forward does."""
        logits: Tensor = self.llm.get_output_embeddings()(hidden)
        config = self.llm.config
        if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * scale
        if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / scaling
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
            logits = torch.tanh(logits / cap) * cap
        return logits

    @torch.no_grad()
    def check_output_layer(self) -> None:
        """Check on three tokens that :meth:`output_logits` agrees with the model's own forward.

        Raises:
            UserError: If it does not: the model changes its logits in a way that this class does not know.
        """
        was_training = self.training
        self.eval()  # dropout would set the two apart
        ids = torch.arange(3, device=self.llm.device)[None]
        expected = self.llm(input_ids=ids, use_cache=False).logits
        got = self.output_logits(self.llm.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        self.train(was_training)
        if not torch.allclose(got, expected, rtol=1e-2, atol=1e-2):
            msg = (
                f"The language model '{self.llm.config.model_type}' changes its logits in a way that target-only loss "
                f"does not know; training on it would be wrong. Supported: Llama, Mistral, Gemma, Qwen, GPT-NeoX "
                f"and others with a plain, scaled or soft-capped output layer."
            )
            raise UserError(msg)

    @torch.no_grad()
    def generate(self, speech: AdapterOutput, batch: Batch, decoding: Decoding) -> list[Hypothesis]:
        """Decode with a KV cache, left-padded; see :meth:`Decoder.generate`.

        Raises:
            UserError: If prompt and speech leave no room for an answer; the message names the utterance.
        """
        clock = FirstTokenClock()
        around = self._around(batch)
        self._fit(around, speech.lengths.tolist(), [[] for _ in around], batch.ids)
        joined = self._join(around, speech, [[] for _ in around], "left")
        room = self.max_length - joined.mask.sum(dim=1).cpu()
        limits = [
            min(decoding.limit(duration_s, task), int(left))
            for duration_s, task, left in zip(batch.durations_s, batch.tasks, room, strict=True)
        ]
        limit = UtteranceLimit(limits, decoding.num_beams, self.prompt.end_id, self.end_ids, decoding.min_new_tokens)
        output: Tensor = self.llm.generate(
            inputs_embeds=joined.embeds,
            attention_mask=joined.mask.long(),
            num_beams=decoding.num_beams,
            do_sample=False,
            max_new_tokens=max(limits),
            logits_processor=[limit],
            stopping_criteria=[clock],
        )
        hypotheses = []
        for task, ids, most in zip(batch.tasks, output.tolist(), limits, strict=True):
            content, tokens = cut_at_end(ids, self.end_ids)
            text = self.tokenizer.decode(content, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            transcript, translation, missing = self.prompt.parse(task, text)
            hit_limit, first_token_s = tokens >= most, clock.first_token_s
            hypotheses.append(Hypothesis(text, transcript, translation, tokens, missing, hit_limit, first_token_s))
        return hypotheses

    def transcript_ids(self, batch: Batch) -> list[Tensor]:
        """Return the token ids of each transcript; see :meth:`Decoder.transcript_ids`."""
        encoded = self.tokenizer(batch.transcripts, add_special_tokens=False)["input_ids"]
        return [torch.tensor(ids, dtype=torch.int64) for ids in encoded]

    def tokenizer_json(self) -> str:
        """Return the tokenizer as the JSON text that ``tokenizer`` takes."""
        return str(self.tokenizer.backend_tokenizer.to_str())

    def _join(
        self,
        around: list[tuple[list[int], list[int]]],
        speech: AdapterOutput,
        answers: list[list[int]],
        padding_side: Literal["left", "right"],
    ) -> Joined:
        if self.speech_scale != 1.0:
            speech = replace(speech, values=speech.values * self.speech_scale)
        return join(self.llm.get_input_embeddings(), around, speech, answers, padding_side)

    def _around(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        triples = zip(batch.tasks, batch.source_languages, batch.target_languages, strict=True)
        return [self.prompt.around(*triple) for triple in triples]

    def _fit(
        self,
        around: list[tuple[list[int], list[int]]],
        speech_lengths: list[int],
        answers: list[list[int]],
        ids: list[str],
    ) -> tuple[list[list[int]], int]:
        """Cut answers at ``max_length`` and count them; speech is never cut (spec §12.2)."""
        fitted, truncated = [], 0
        for (before, after), speech_length, answer, name in zip(around, speech_lengths, answers, ids, strict=True):
            room = self.max_length - len(before) - len(after) - speech_length
            if room < 1:
                msg = (
                    f"Utterance '{name}' has {speech_length} speech positions; with its prompt that leaves no room "
                    f"for an answer in the decoder's {self.max_length} positions. Use an adapter that compresses more, "
                    f"shorter audio, or a larger `max_length`."
                )
                raise UserError(msg)
            truncated += len(answer) > room
            fitted.append(answer[:room])
        return fitted, truncated

    def _set_generation_config(self) -> None:
        """Replace the checkpoint's sampling settings, which would change greedy and beam search."""
        from transformers import GenerationConfig

        self.llm.generation_config = GenerationConfig(
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.end_ids,
        )


def _build_prompt(tokenizer: Any, options: dict[str, Any]) -> Prompt:
    allowed = [name for name in inspect.signature(Prompt).parameters if name != "tokenizer"]
    if unknown := set(options) - set(allowed):
        hint = "".join(did_you_mean(name, allowed) for name in sorted(unknown))
        msg = f"The prompt does not take {', '.join(sorted(unknown))}.{hint} It takes: {', '.join(allowed)}."
        raise UserError(msg)
    return Prompt(tokenizer, **options)


def _embedding_scale(llm: Any) -> float:
    """Return what the LLM multiplies its token embeddings by."""
    scale = getattr(llm.get_input_embeddings(), "embed_scale", None)
    if scale is None:
        msg = (
            f"`scale_speech_embeds` is for language models that scale their token embeddings, as Gemma does; "
            f"'{llm.config.model_type}' does not. Leave it out."
        )
        raise UserError(msg)
    return float(scale)


def _end_ids(llm: Any, tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return every token that ends an answer (spec §17.2)."""
    own = llm.generation_config.eos_token_id if llm.generation_config is not None else None
    own = own if isinstance(own, list) else [own]
    return sorted({token for token in (prompt.end_id, tokenizer.eos_token_id, *own) if token is not None})
