"""Causal language models of Hugging Face: whole, or frozen with LoRA adapters on them (peft).

One verb: `read` takes any number of tokens behind shared segments, with gradients; with a buffer it
takes the one token that every row writes next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ponder.config.players import HfConfig
from ponder.core.lazy_imports import library
from ponder.core.math import Sampling, at_least_float32, distribution, entropy
from ponder.models.huggingface.attention import NAME, Reading, register
from ponder.models.huggingface.chunks import in_parts
from ponder.models.huggingface.packing import packed, real_tokens, unpacked
from ponder.models.huggingface.segments import Buffer, Segment


class TextModel(nn.Module):
    """A `transformers` causal language model; `model` is it, or the PeftModel around it.

    words is how many tokens its tokenizer has: some models have room for more. barred is one of
    these that may not be written; None: all may. entropy_learns says whether entropies have
    gradients, which are dear where the vocabulary is wide.
    """

    def __init__(self, model: nn.Module, words: int | None = None) -> None:
        super().__init__()
        register()
        self.model = model
        self.words = words
        self.barred: int | None = None
        self.entropy_learns = True
        self.network.set_attn_implementation(NAME)  # type: ignore[operator]

    @property
    def network(self) -> nn.Module:
        """The transformers model, with its adapters in it."""
        return self.model.get_base_model() if self.adapted else self.model  # type: ignore[operator]

    @property
    def adapted(self) -> bool:
        """Whether it has LoRA adapters."""
        return hasattr(self.model, "peft_config")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    @property
    def head(self) -> nn.Linear:
        return self.network.get_output_embeddings()  # type: ignore[operator]

    @property
    def width(self) -> int:
        """D, of its hidden states."""
        return self.head.weight.shape[1]

    def logits(self, hidden: Tensor, vocabulary: slice | None = None) -> Tensor:
        """(..., D) -> (..., V), scaled (Granite, Cohere) and capped (Gemma) as the model does; -inf
        for what is barred; of a slice of the vocabulary, where one is given.
        """
        config, head = self.network.config, self.head
        if vocabulary is None or type(head) is not nn.Linear:  # rows may lie beside its weight
            found = head(hidden)[..., vocabulary or slice(0, self.words)]
        else:
            bias = None if head.bias is None else head.bias[vocabulary]
            found = F.linear(hidden, head.weight[vocabulary], bias)
        scale = getattr(config, "logit_scale", None) or 1.0
        scale = scale / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        found = found if scale == 1 else found * scale
        found = found if cap is None else cap * (found / cap).tanh()
        if self.barred is not None and vocabulary is None:
            found[..., self.barred] = -torch.inf
        return found

    def logprobs(self, states: Tensor, target: Tensor, sampling: Sampling) -> Tensor:
        """(M, 2): log-probability of each token (M,) after its state (M, D), and the entropy there.
        """
        def part(some: Tensor, tokens: Tensor) -> Tensor:
            logprobs = distribution(at_least_float32(self.logits(some)), sampling, keep=tokens)
            spread = entropy(logprobs if self.entropy_learns else logprobs.detach())
            return torch.stack([logprobs.gather(1, tokens[:, None])[:, 0], spread], 1)

        return torch.cat(in_parts(part, states, target))

    def foresee(self, states: Tensor, target: Tensor, vocabulary: slice | None = None,
                ) -> tuple[Tensor, Tensor]:
        """(-log p (M,) in nats of each token (M,) after its state (M, D), the likeliest one (M,)).
        """
        def part(some: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
            logits = at_least_float32(self.logits(some, vocabulary))
            return F.cross_entropy(logits, tokens, reduction="none"), logits.argmax(-1)

        losses, likeliest = zip(*in_parts(part, states, target), strict=True)
        return torch.cat(losses), torch.cat(likeliest)

    def adapt(self, config: HfConfig) -> None:
        """Freeze the weights and put new LoRA adapters on them; they begin by changing nothing.

        Thought tokens, the last of the words, are trained with them.
        """
        count = self.words or 0
        new = list(range(count - config.thought_tokens, count))
        rows = {name: new for name, part in self.model.named_modules() if new and part in (
            self.model.get_input_embeddings(), self.head)}  # type: ignore[operator]
        if self.model.config.tie_word_embeddings:  # type: ignore[union-attr]
            rows = dict(list(rows.items())[:1])
        alpha = 2 * config.lora_r if config.lora_alpha is None else config.lora_alpha
        targets = list(config.lora_targets)
        peft = library("peft")
        lora = peft.LoraConfig(
            r=config.lora_r, lora_alpha=alpha, lora_dropout=config.lora_dropout,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            task_type="CAUSAL_LM", trainable_token_indices=rows or None)
        self.model = peft.get_peft_model(self.model, lora)

    def read(self, tokens: Tensor, mask: Tensor | None = None, past: list[Segment] | None = None,
             keep: bool = True) -> tuple[Tensor, Segment]:
        """Hidden states (N, T, D) of tokens (N, T) behind segments that hold R rows each, N a
        multiple of R; and the segment they make, if later rows are to see it (`keep`).

        mask (N, T) is False on padding, wherever it lies; positions count real tokens only. Each
        row is read without its gaps, and states on padding are 0.
        """
        if mask is None:
            return self._read(tokens, torch.ones_like(tokens, dtype=torch.bool), past or [], keep,
                              whole=True)
        width = max(int(mask.sum(1).max()), 1)
        if width == tokens.shape[1]:
            return self._read(tokens, mask, past or [], keep)
        place = (~mask).byte().argsort(dim=1, stable=True)[:, :width]
        few, segment = self._read(tokens.gather(1, place), mask.gather(1, place), past or [], keep)
        place = place[..., None].expand(few.shape)
        hidden = few.new_zeros(*tokens.shape, few.shape[2]).scatter(1, place, few)
        return hidden, segment

    def _read(self, tokens: Tensor, mask: Tensor, past: list[Segment], keep: bool,
              whole: bool = False) -> tuple[Tensor, Segment]:
        """`read` of every column; whole: there is no padding."""
        before = self._before(past, len(tokens)).to(tokens.device)
        length = before + mask.sum(1)
        segment = Segment(mask, length)
        positions = (before[:, None] + mask.long().cumsum(1) - 1).clamp_min(0)
        real = None if whole else real_tokens(mask)
        reading = Reading(past, mask, segment if keep else None, whole=whole, real=real)
        if real is not None:
            hidden = self.run(packed(tokens, real), packed(positions, real), reading)
            return unpacked(hidden, real, mask), segment
        tokens = tokens.masked_fill(~mask, 0)  # padding is no word, and nobody sees it
        return self.run(tokens, positions, reading), segment

    def write(self, tokens: Tensor, buffer: Buffer, past: list[Segment], seen: int,
              places: Tensor | None = None, grid: int = 1) -> Tensor:
        """Hidden states (N, D) of one token (N,) a row, put into its buffer; no gradient.

        seen: no row has more than so many tokens in its buffer, this one included. places and grid
        as in `Reading`, where rows have left their groups.
        """
        before = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        for segment in past[-1:]:
            before = segment.length.repeat_interleave(
                grid if places is not None else len(tokens) // len(segment.length), 0)
            before = before if places is None else before[places]
        positions = (before + buffer.at)[:, None]
        mask = torch.ones_like(tokens[:, None], dtype=torch.bool)
        reading = Reading(past, mask, None, buffer, seen, places, grid)
        hidden = self.run(tokens[:, None], positions, reading)[:, 0]
        buffer.at = buffer.at + 1
        return hidden

    @staticmethod
    def _before(past: list[Segment], rows: int) -> Tensor:
        """(N,): real tokens in front of each of N rows."""
        if not past:
            return torch.zeros(rows, dtype=torch.long)
        length = past[-1].length
        return length.repeat_interleave(rows // len(length), 0)

    @property
    def base(self) -> nn.Module:
        """The network without its head."""
        return getattr(self.network, self.network.base_model_prefix)  # type: ignore[arg-type]

    @property
    def blocks(self) -> list[nn.Module]:
        count = self.network.config.num_hidden_layers  # type: ignore[union-attr]
        return next(list(part) for part in self.base.modules()
                    if isinstance(part, nn.ModuleList) and len(part) == count)

    def run(self, tokens: Tensor, positions: Tensor, reading: Reading) -> Tensor:
        """Hidden states (N, T, D) of tokens (N, T): the verb under the others."""
        found = self.base(input_ids=tokens, position_ids=positions, use_cache=False,
                          reading=reading)
        return found.last_hidden_state

    @contextlib.contextmanager
    def as_it_began(self) -> Iterator[None]:
        """With the adapter it was loaded with, or without the one it was given since: the reference
        that costs (almost) no memory.
        """
        if "reference" in self.model.peft_config:  # type: ignore[operator]
            self.model.set_adapter("reference")  # type: ignore[operator]
            try:
                yield
            finally:
                self.model.set_adapter("default")  # type: ignore[operator]
        else:
            with self.model.disable_adapter():  # type: ignore[operator]
                yield

    @contextlib.contextmanager
    def attending(self, name: str = "sdpa") -> Iterator[None]:
        """With other attention: that of plain `transformers`, as checkpoints should name it."""
        before = self.network.config._attn_implementation  # type: ignore[union-attr]
        self.network.set_attn_implementation(name)  # type: ignore[operator]
        try:
            yield
        finally:
            self.network.set_attn_implementation(before)  # type: ignore[operator]
