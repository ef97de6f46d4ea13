"""Any Hugging Face causal language model as decoder (spec §10.3, §12, §13.1)."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from speechllm.batch import AdapterOutput, Batch, Hypothesis
from speechllm.decoders.attention import Layout, install
from speechllm.decoders.base import Decoder, DecoderOutput, Decoding, SequenceSizes
from speechllm.decoders.generation import Prompts, generate_ids
from speechllm.decoders.hugging_face import load_llm, random_llm
from speechllm.decoders.join import Joined, join
from speechllm.decoders.layers import parse_checkpoint_layers, prepare_layers
from speechllm.decoders.limits import FirstTokenClock, UtteranceLimit, cut_at_end
from speechllm.decoders.loss import CHUNK_BYTES, token_losses
from speechllm.decoders.new_tokens import NewTokens, grow_vocabulary
from speechllm.decoders.packing import Kernel, check_packing, choose_kernel, compute_dtype
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
        attn_implementation: One of :data:`speechllm.decoders.attention.KERNELS`, for training; chosen automatically
            where not given (``eager`` on a CPU for models that soft-cap attention scores, as Gemma 2 does: the fused
            kernels would leave the cap out). Text is generated with transformers' ``sdpa`` or ``eager``.
        packing: Whether the sequences of a batch lie end to end in one row in training, without padding; ``auto`` does
            that on a GPU where a kernel allows it, see :func:`speechllm.decoders.packing.choose_kernel`.
        checkpoint_layers: Layers that keep their input alone for the backward pass, which computes them again:
            ``none``, ``all``, or a number n for every n-th.
        compile: Whether the layers are compiled for training; the first step then takes a minute longer.
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
        packing: bool | str = "auto",
        checkpoint_layers: int | str = "none",
        compile: bool = False,
    ) -> None:
        super().__init__()
        check_packing(packing, attn_implementation)
        checkpoint_every = parse_checkpoint_layers(checkpoint_layers)
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
        self.attention, self.packing = attn_implementation, packing
        self._by_layout = install(self.llm)
        self.apply_tuning(tuning, lora)
        self.new_tokens = NewTokens(self.llm, new_ids[0], len(new_ids)) if new_ids else None
        prepare_layers(self.llm, checkpoint_every, compile)

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
        kernel = self.kernel(speech.values.device)
        joined = self._join(around, speech, answers, "right", kernel.packed)
        losses, part_losses = self.target_weights.apply(
            self.token_losses(joined, kernel), [len(ids) for ids in answers], [tokens for _, tokens in parts]
        )
        stats = {
            "llm_positions": joined.lengths.sum(),
            "speech_positions": speech.lengths.sum(),
            "truncated_targets": torch.tensor(truncated),
        }
        sizes = SequenceSizes(joined.lengths.tolist(), [len(ids) for ids in answers], joined.embeds.shape[:2].numel())
        return DecoderOutput(losses, joined.target_lengths, stats | part_losses, sizes)

    def attention_summary(self, device: torch.device) -> str:
        """Return what computes attention in training; see :meth:`Decoder.attention_summary`."""
        return str(self.kernel(device))

    def kernel(self, device: torch.device) -> Kernel:
        """Return what computes attention in training, on a device and in the number format of now."""
        if not self._by_layout:
            return Kernel(self.llm.config._attn_implementation, False, "transformers' own attention")
        config = self.llm.config
        dropout = 0.0 if self.frozen else getattr(config, "attention_dropout", 0.0)
        soft_capped = getattr(config, "attn_logit_softcapping", None) is not None
        dtype = compute_dtype(device, self.llm.dtype)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return choose_kernel(self.attention, self.packing, soft_capped, dropout, width, device, dtype)

    def token_losses(self, joined: Joined, kernel: Kernel, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """Return the cross-entropy (N,) float32 of each target token.

        Only the N positions that predict a target token go through the output layer, and those in chunks.
        """
        hidden = self.hidden(joined, kernel).flatten(0, 1).index_select(0, joined.target_places)
        head = self.llm.get_output_embeddings()
        trained = any(p.requires_grad for p in head.parameters()) or self.new_tokens is not None
        return token_losses(hidden, joined.targets, self.output_logits, head.weight.shape[0], trained, chunk_bytes)

    def hidden(self, joined: Joined, kernel: Kernel) -> Tensor:
        """Return the final hidden states of the positions of ``joined.embeds``."""
        options: dict[str, Any] = {"attention_mask": joined.mask} if not self._by_layout else {}
        if self._by_layout:
            device = joined.embeds.device
            # A mask of four dimensions is passed on as it is; what attends looks at the layout.
            options["attention_mask"] = joined.embeds.new_zeros(1, 1, 1, 1)
            options["layout"] = Layout.of(kernel.name, joined.lengths.tolist(), joined.packed, device)
        hidden: Tensor = self.llm.base_model(
            inputs_embeds=joined.embeds, position_ids=joined.position_ids, use_cache=False, **options
        ).last_hidden_state
        return hidden

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
        embeds = self.llm.get_input_embeddings()(ids)
        kernel = self.kernel(embeds.device)
        joined = join(lambda _: embeds[0], [([0], [0, 0])], _no_speech(embeds), [[]], "right", kernel.packed)
        got = self.output_logits(self.hidden(joined, kernel))
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
        """Decode with a cache of keys and values, left-padded; see :meth:`Decoder.generate`.

        Raises:
            UserError: If prompt and speech leave no room for an answer; the message names the utterance.
        """
        clock = FirstTokenClock()
        around, lengths = self._around(batch), speech.lengths.tolist()
        self._fit(around, lengths, [[] for _ in around], batch.ids)
        limits = [
            min(decoding.limit(duration_s, task), self.max_length - len(before) - length - len(after))
            for duration_s, task, length, (before, after) in zip(
                batch.durations_s, batch.tasks, lengths, around, strict=True
            )
        ]
        device = speech.values.device
        limit = UtteranceLimit(limits, self.prompt.end_id, self.end_ids, decoding.min_new_tokens, device)
        prompts = Prompts(around, speech, batch.audio_of, lambda a, s: self._join(a, s, [[] for _ in a], "left"))
        output = generate_ids(self.llm, prompts, limit, decoding.num_beams, decoding.kv_cache == "static", clock)
        hypotheses = []
        for task, ids, most in zip(batch.tasks, output, limits, strict=True):
            content, tokens = cut_at_end(ids, self.end_ids)
            text = self.tokenizer.decode(content, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            transcript, translation, missing = self.prompt.parse(task, text)
            hit_limit, first_token_s = tokens >= most, clock.first_token_s
            hypotheses.append(Hypothesis(text, transcript, translation, tokens, missing, hit_limit, first_token_s))
        return hypotheses

    @torch.no_grad()
    def answer_logits(self, speech: AdapterOutput, batch: Batch) -> Tensor:
        """Return the model's own logits (B, N, V) where it predicts the last N tokens of each answer.

        Args:
            speech: Speech embeddings (B, S, H) with lengths (B,).
            batch: Tasks, languages and texts; N is the length of the shortest answer.
        """
        texts = zip(batch.tasks, batch.transcripts, batch.translations, strict=True)
        answers = [self.prompt.answer(*text) for text in texts]
        joined = self._join(self._around(batch), speech, answers, "left")
        shortest = min(map(len, answers))
        output = self.llm(
            inputs_embeds=joined.embeds,
            attention_mask=joined.mask,
            position_ids=(joined.mask.long().cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=shortest + 1,
        )
        logits: Tensor = output.logits[:, :-1]
        return logits

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
        packed: bool = False,
    ) -> Joined:
        if self.speech_scale != 1.0:
            speech = replace(speech, values=speech.values * self.speech_scale)
        return join(self.llm.get_input_embeddings(), around, speech, answers, padding_side, packed)

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


def _no_speech(embeds: Tensor) -> AdapterOutput:
    """Return no speech positions for one utterance, where ``embeds`` are."""
    return AdapterOutput(embeds.new_zeros(1, 0, embeds.shape[-1]), torch.zeros(1, dtype=torch.int64))


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
