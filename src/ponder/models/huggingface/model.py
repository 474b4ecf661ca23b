"""Causal language models of Hugging Face as backbones: whole, or frozen with LoRA adapters (peft).

Their layers are those of `transformers`; the attention function is ours (`attention.attend`), so
that rows can share keys and values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.config.players import HfConfig
from ponder.core.lazy_imports import library
from ponder.core.math import columns
from ponder.core.types import Problems
from ponder.models.backbone import Backbone, Segment
from ponder.models.huggingface.attention import (
    NAME,
    Buffer,
    Reading,
    packed,
    real_tokens,
    register,
    unpacked,
)

REFERENCE = "reference"  # the name of a second copy of an adapter, which is not trained


@dataclass
class Rows:
    """A `Decoder`: N rows that grow after R questions (`prompt`), `samples` after each.

    places (N,): which of the R * samples rows these are, where some have left; None: all.
    """

    net: Model
    prompt: Segment
    buffer: Buffer
    samples: int
    places: Tensor | None = None
    written: int = 0

    @property
    def room(self) -> int:
        return self.buffer.room

    def step(self, tokens: Tensor) -> Tensor:
        self.written += 1
        return self.net.write(tokens, self.buffer, self.prompt, self.written, self.places,
                              self.samples)

    def select(self, rows: Tensor) -> Rows:
        buffer, count = self.buffer.select(rows), len(self.prompt.mask)
        if count == 1:  # one prompt for all of them, whoever they are
            return replace(self, buffer=buffer, samples=len(rows))
        if self.samples == 1:
            return replace(self, buffer=buffer, prompt=self.prompt.select(rows))
        every = torch.arange(count * self.samples, device=rows.device)
        places = (every if self.places is None else self.places)[rows]
        return replace(self, buffer=buffer, places=places)

    def grow(self, more: int) -> Rows:
        room = (0, 0, 0, more)
        kv = {layer: (F.pad(key, room), F.pad(value, room))
              for layer, (key, value) in self.buffer.kv.items()}
        return replace(self, buffer=Buffer(self.room + more, self.buffer.at, kv))

    def segment(self, rows: Tensor) -> Segment:
        """Only while no row has left its group."""
        prompt = self.prompt.select(rows // self.samples)
        if self.written == 0:
            return prompt
        kv = {layer: (key[rows, :, :self.written], value[rows, :, :self.written])
              for layer, (key, value) in self.buffer.kv.items()}
        mask = torch.ones(len(rows), self.written, dtype=torch.bool, device=rows.device)
        return prompt.longer(Segment(mask, prompt.length + self.written, kv, False))

    def rewind(self, written: int) -> None:
        self.buffer.at = self.buffer.at - (self.written - written)
        self.written = written


class Model(Backbone):
    """A causal language model of `transformers`; model: it, or the PeftModel around it.

    words: it may write the first so many tokens. Output matrices are often larger than the
    vocabulary of the tokenizer. barred: those of them that it may not write. attention: the
    function of `transformers` that it came with; by default the one it has now.
    """

    chunked = True
    inner = "run"
    has_modes = True

    model: Any  # of `transformers` or `peft`, which add methods to modules at run time

    def __init__(self, model: nn.Module, words: int | None = None, barred: Sequence[int] = (),
                 entropy_learns: bool = True, attention: str | None = None) -> None:
        super().__init__()
        register()
        self.model = model
        self.attention = attention or self.network.config._attn_implementation
        self.words = words
        self.barred = tuple(barred)
        self.entropy_learns = entropy_learns
        self.network.set_attn_implementation(NAME)

    # --- what it is -----------------------------------------------------------------------------

    @property
    def network(self) -> Any:
        """The transformers model, with its adapters in it."""
        return self.model.get_base_model() if self.adapted else self.model

    @property
    def adapted(self) -> bool:
        """Whether it has LoRA adapters."""
        return hasattr(self.model, "peft_config")

    @property
    def has_beginning(self) -> bool:
        """Biases that an adapter has changed cannot be switched off."""
        return self.adapted and all(
            getattr(one, "bias", "none") == "none" for one in self.model.peft_config.values())

    @property
    def head(self) -> Tensor:
        return self.network.get_output_embeddings().weight

    @property
    def embeddings(self) -> Tensor:
        return self.embed(torch.arange(len(self.head), device=self.device))

    @property
    def positions(self) -> int | None:
        return context_limit(self.network.config)

    def compile(self, *options: Any, **more: Any) -> None:
        self.base.compile(*options, **more)

    def embed(self, tokens: Tensor) -> Tensor:
        return tokens if tokens.is_floating_point() else self.network.get_input_embeddings()(tokens)

    def logits(self, hidden: Tensor, vocabulary: slice | None = None) -> Tensor:
        """Scaled (Granite, Cohere) and capped (Gemma) as the model does; -inf for what is barred.
        """
        config, head = self.network.config, self.network.get_output_embeddings()
        most = vocabulary is None or 2 * len(range(*vocabulary.indices(len(self.head)))) >= (
            len(self.head))
        if most or type(head) is not nn.Linear:  # adapters may lie beside its weight
            found = head(hidden)[..., vocabulary or slice(0, self.words)]
        else:
            bias = None if head.bias is None else head.bias[vocabulary]
            found = F.linear(hidden, head.weight[vocabulary], bias)
        scale = getattr(config, "logit_scale", None) or 1.0
        scale = scale / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        found = found if scale == 1 else found * scale
        found = found if cap is None else cap * (found / cap).tanh()
        start = 0 if vocabulary is None else vocabulary.start or 0
        for token in self.barred:
            if start <= token < start + found.shape[-1]:
                found[..., token - start] = -torch.inf
        return found

    def adapt(self, config: HfConfig) -> None:
        """Freeze the weights and add LoRA adapters, which change nothing at first. Embeddings of
        thought tokens, the last of the words, are trained too.
        """
        count = self.words or 0
        new = list(range(count - config.thought_tokens, count))
        rows = {name: new for name, part in self.model.named_modules() if new and part in (
            self.model.get_input_embeddings(), self.model.get_output_embeddings())}
        if self.model.config.tie_word_embeddings:
            rows = dict(list(rows.items())[:1])
        alpha = 2 * config.lora_r if config.lora_alpha is None else config.lora_alpha
        targets = list(config.lora_targets)
        peft = library("peft")
        lora = peft.LoraConfig(
            r=config.lora_r, lora_alpha=alpha, lora_dropout=config.lora_dropout,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            task_type="CAUSAL_LM", trainable_token_indices=rows or None)
        self.model = peft.get_peft_model(self.model, lora)

    # --- hidden states --------------------------------------------------------------------------

    def read(self, tokens: Tensor, mask: Tensor | None = None, prefix: Sequence[Segment] = (),
             keep: bool = True, last: int | None = None, position: int | None = None,
             ) -> tuple[Tensor, Segment]:
        """Padding is not computed where there is much of it; states on padding are 0."""
        width = tokens.shape[1] if mask is None else max(int(mask.sum(1).max()), 1)
        if mask is None or width == tokens.shape[1]:
            hidden, segment = self._read(tokens, mask, prefix, keep)
        else:
            place = (~mask).byte().argsort(dim=1, stable=True)[:, :width]
            few, segment = self._read(columns(tokens, place), mask.gather(1, place), prefix, keep)
            place = place[..., None].expand(few.shape)
            hidden = few.new_zeros(*tokens.shape[:2], few.shape[2]).scatter(1, place, few)
        return hidden if last is None else hidden[:, -last:], segment

    def _read(self, tokens: Tensor, mask: Tensor | None, past: Sequence[Segment], keep: bool,
              ) -> tuple[Tensor, Segment]:
        """`read` of every column."""
        whole = mask is None
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        before = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        if past:
            before = past[-1].length.repeat_interleave(len(tokens) // len(past[-1].length), 0)
        length = before + mask.sum(1)
        segment = Segment(mask, length, padded=not whole)
        positions = (before[:, None] + mask.long().cumsum(1) - 1).clamp_min(0)
        real = None if whole else real_tokens(mask)
        reading = Reading(past, mask, segment if keep else None, whole=whole, real=real)
        if real is not None:
            hidden = self.run(packed(tokens, real), packed(positions, real), reading)
            return unpacked(hidden, real, mask), segment
        if not tokens.is_floating_point():
            tokens = tokens.masked_fill(~mask, 0)  # padding has no embedding, and nobody sees it
        return self.run(tokens, positions, reading), segment

    def after(self, problems: Problems, rows: Tensor, samples: int, last: int,
              look: Callable[[Tensor], Tensor] = lambda hidden: hidden,
              mask: Tensor | None = None, position: int | None = None) -> Tensor:
        """Question and single sample are read as one sequence; several samples share a segment."""
        question, vectors = problems.question, rows.is_floating_point()
        if mask is None:
            mask = torch.ones_like(rows[..., 0], dtype=torch.bool) if vectors else (
                rows != problems.pad)
        if samples > 1:
            return super().after(problems, rows, samples, last, look, mask)
        if vectors:
            question = self.embed(question.masked_fill(question == problems.pad, 0))
        mask = torch.cat([problems.question != problems.pad, mask], 1)
        hidden, _ = self.read(torch.cat([question, rows], 1), mask, keep=False, last=last)
        return look(hidden)

    def branch(self, tokens: Tensor, passage: Segment, at: Tensor, own: Segment | None = None,
               ) -> tuple[Tensor, Segment]:
        count, length = at.numel(), tokens.shape[2]
        before = at.flatten() + 1 + (0 if own is None else own.mask.shape[1])
        mask = torch.ones(count, length, dtype=torch.bool, device=at.device)
        segment = Segment(mask, before + length, padded=False)
        reading = Reading([passage] if own is None else [passage, own], mask, segment,
                          upto=at.flatten())
        positions = before[:, None] + torch.arange(length, device=at.device)
        known = tokens < len(self.head)  # padding is at the end; no token sees it
        states = self.run(tokens.where(known, 0).flatten(0, 1), positions, reading)
        return states.unflatten(0, at.shape), segment if own is None else own.longer(segment)

    def decoder(self, segment: Segment, samples: int, room: int, leaving: bool = False) -> Rows:
        count = len(segment.mask) * samples
        at = torch.zeros(count, dtype=torch.long, device=segment.mask.device)
        return Rows(self, segment, Buffer(room, at), samples)

    def write(self, tokens: Tensor, buffer: Buffer, prompt: Segment, seen: int,
              places: Tensor | None = None, grid: int = 1) -> Tensor:
        """Hidden states (N, D) of one more token (N,) a row, which is put into the buffer. The rows
        share the prompt. No gradient.

        seen: the most tokens that a row has in the buffer, this one included. places, grid: as in
        `Reading`.
        """
        mask = torch.ones_like(tokens[:, None], dtype=torch.bool)
        reading = Reading([prompt], mask, None, buffer, seen, places, grid)
        positions = (reading.of_rows(prompt.length) + buffer.at)[:, None]
        hidden = self.run(tokens[:, None], positions, reading)[:, 0]
        buffer.at = buffer.at + 1
        return hidden

    @property
    def base(self) -> nn.Module:
        """The network without its head."""
        return getattr(self.network, self.network.base_model_prefix)

    @property
    def blocks(self) -> list[nn.Module]:
        count = self.network.config.num_hidden_layers
        return next(list(part) for part in self.base.modules()
                    if isinstance(part, nn.ModuleList) and len(part) == count)

    def run(self, tokens: Tensor, positions: Tensor, reading: Reading) -> Tensor:
        """Hidden states (N, T, D) of tokens (N, T) or embeddings (N, T, D). Every computation goes
        through this method.
        """
        given = {"inputs_embeds" if tokens.is_floating_point() else "input_ids": tokens}
        found = self.base(**given, position_ids=positions, use_cache=False, reading=reading)
        return found.last_hidden_state

    @contextlib.contextmanager
    def as_it_began(self) -> Iterator[None]:
        """With the adapter that it was loaded with, or with none if it began without one: a
        reference model that takes (almost) no memory.
        """
        if REFERENCE in self.model.peft_config:
            self.model.set_adapter(REFERENCE)
            try:
                yield
            finally:
                self.model.set_adapter("default")
        else:
            with self.model.disable_adapter():
                yield

    @contextlib.contextmanager
    def attending(self, name: str | None = None) -> Iterator[None]:
        """With an attention function of `transformers`, by default the one the model came with:
        saved configurations must not name ours.
        """
        before = self.network.config._attn_implementation
        self.network.set_attn_implementation(name or self.attention)
        try:
            yield
        finally:
            self.network.set_attn_implementation(before)


def context_limit(config: Any) -> int | None:
    """The most tokens that a model with such a configuration reads: as many as it has positions, or
    as its sliding windows hold, which are not applied here; None where it names no number.
    """
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    slides = "sliding_attention" in kinds and getattr(config, "use_sliding_window", True)
    limits = [getattr(config, "max_position_embeddings", None),
              getattr(config, "sliding_window", None) if slides else None]
    return min((limit for limit in limits if limit is not None), default=None)
