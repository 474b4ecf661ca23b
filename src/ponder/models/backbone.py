"""What every language model offers to the policies above it, whoever wrote its layers.

N rows of T tokens; D the width of hidden states, V how many tokens may be chosen. Log-probabilities
are in nats.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ponder.config.errors import UserError
from ponder.core.math import Sampling, at_least_float32, distribution, entropy
from ponder.core.types import Problems

CHUNK = 512  # decisions whose logits are in memory at once, where vocabularies are wide
LOGITS_AT_ONCE = 2**24  # logits in memory at once elsewhere, without gradients
Found = TypeVar("Found")


@dataclass
class Segment:
    """Keys and values of R rows of S tokens, which later rows attend to.

    What many rows have in common is read once: a question for its samples, a rationale for the
    options of its answer, a passage for the thoughts at its positions.

    - kv: the keys and values of each layer (R, ..., S, D'), in the layout of the backbone.
    - mask (R, S): False on padding.
    - length (R,): how many real tokens there are up to here, earlier segments included.
    - padded: False where it is known that no token is padding.
    """

    mask: Tensor
    length: Tensor
    kv: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    padded: bool = True

    def _with(self, mask: Tensor, length: Tensor, change: Callable[[Tensor], Tensor]) -> Segment:
        return Segment(mask, length, {layer: tuple(map(change, held))
                                      for layer, held in self.kv.items()}, self.padded)

    def select(self, rows: Tensor) -> Segment:
        """Some rows (r,) by index."""
        return self._with(self.mask[rows], self.length[rows], lambda held: held[rows])

    def repeat(self, samples: int) -> Segment:
        """Each row `samples` times, side by side; the gradients of a group add up."""
        if samples == 1:
            return self
        return self._with(self.mask.repeat_interleave(samples, 0),
                          self.length.repeat_interleave(samples, 0),
                          lambda held: held.repeat_interleave(samples, 0))

    def first(self, rows: slice, width: int) -> Segment:
        """The first `width` tokens of some rows, where none of them is padding."""
        mask = self.mask[rows, :width]
        found = self._with(mask, mask.sum(1), lambda held: held[rows].narrow(-2, 0, width))
        found.padded = False
        return found

    def longer(self, more: Segment) -> Segment:
        """One segment of two: this one, and one that was read after it."""
        kv = {layer: tuple(torch.cat(pair, -2) for pair in zip(held, more.kv[layer], strict=True))
              for layer, held in self.kv.items()}
        return Segment(torch.cat([self.mask, more.mask], 1), more.length, kv,
                       self.padded or more.padded)

    @staticmethod
    def joined(segments: list[Segment]) -> Segment:
        """The rows of all segments, the narrower ones padded on the left."""
        width = max(segment.mask.shape[1] for segment in segments)

        def together(parts: Sequence[Tensor], dim: int) -> Tensor:
            wide = [F.pad(x, (*(0, 0) * (x.dim() - 1 - dim), width - x.shape[dim], 0))
                    for x in parts]
            return torch.cat(wide) if len(wide) > 1 else wide[0]

        kv = {layer: tuple(together(parts, parts[0].dim() - 2) for parts in zip(
            *(one.kv[layer] for one in segments), strict=True)) for layer in segments[0].kv}
        same = all(one.mask.shape[1] == width for one in segments)
        return Segment(together([one.mask for one in segments], 1),
                       torch.cat([one.length for one in segments]), kv,
                       not same or any(one.padded for one in segments))


class Decoder(Protocol):
    """N rows that grow by one token at a time after what was read. No gradients."""

    @property
    def written(self) -> int:
        """How many tokens were appended to each row."""
        ...

    @property
    def room(self) -> int:
        """How many tokens may be appended to each row in all, those already written included."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token (N,) to each row: its hidden states (N, D)."""
        ...

    def select(self, rows: Tensor) -> Decoder:
        """Some rows (n,) by index: the others have finished, or a beam search continues these."""
        ...

    def grow(self, more: int) -> Decoder:
        """The same rows with room for `more` tokens more."""
        ...

    def segment(self, rows: Tensor) -> Segment:
        """Keys and values of all that some rows (n,) have read and written so far."""
        ...

    def rewind(self, written: int) -> None:
        """Forget all but the first `written` of the tokens appended to each row."""
        ...


class Backbone(nn.Module):
    """A causal language model: tokens to hidden states, hidden states to logits.

    - chunked: logits are computed for some decisions at a time, as the vocabulary is wide.
    - adapted: it is a frozen model with trained adapters.
    - has_beginning: `as_it_began` reads it as it was before training.
    - has_modes: training mode differs from evaluation mode, by dropout or checkpointing.
    - inner: the name of the method that every computation goes through; FSDP hooks into it to
      gather sharded weights.
    - entropy_learns: entropies have gradients, which cost memory where the vocabulary is wide.
    """

    chunked = False
    adapted = False
    has_beginning = False
    inner = "forward"
    has_modes = False
    entropy_learns = True

    # --- what it is -----------------------------------------------------------------------------

    @property
    def head(self) -> Tensor:
        """The output matrix (vocabulary, D), tokens that it may not write included."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """D, the size of a hidden state."""
        return self.head.shape[1]

    @property
    def device(self) -> torch.device:
        return self.head.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and hidden states."""
        return self.head.dtype

    @property
    def positions(self) -> int | None:
        """How many tokens a row may have; None where nothing limits them."""
        raise NotImplementedError

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its layers, from the first to the last."""
        raise NotImplementedError

    @contextlib.contextmanager
    def as_it_began(self) -> Iterator[None]:
        """As it was before training: adapters off. Only where it `has_beginning`."""
        raise NotImplementedError
        yield

    def reset(self) -> None:
        """Draw all weights anew. Only where they were not pretrained."""
        raise NotImplementedError

    # --- hidden states --------------------------------------------------------------------------

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings (N, T, D) of tokens (N, T); embeddings are returned as they are."""
        raise NotImplementedError

    @property
    def embeddings(self) -> Tensor:
        """The matrix (vocabulary, D) of input embeddings."""
        raise NotImplementedError

    def read(self, tokens: Tensor, mask: Tensor | None = None, prefix: Sequence[Segment] = (),
             keep: bool = True, last: int | None = None, position: int | None = None,
             ) -> tuple[Tensor, Segment]:
        """(hidden states (N, last, D) of the last columns of tokens (N, T), or of input embeddings
        (N, T, D); the segment of these rows). By default the states of all columns.

        - prefix: the segments before the rows; each row of a segment of R rows is shared by N / R
          neighbouring rows.
        - mask (N, T): False on padding, wherever it is; positions count real tokens only. None: no
          padding.
        - keep: whether later rows will attend to the segment; if not, it has no keys and values.
        - position: that of the first column, where padding counts too. Only a GPT-2 of our own.

        Gradients flow through states and segments.
        """
        raise NotImplementedError

    def read_tree(self, tokens: Tensor, prefix: Sequence[Segment], visible: Tensor, last: int,
                  position: int | None = None) -> Tensor:
        """Hidden states (N, last, D) of the last of tokens (N, T) behind segments of N rows, where
        column t sees those that `visible` (T, T) says, itself included, and follows them.

        position: that of the first column behind the segments, as of `read`. Only a GPT-2 of our
        own.
        """
        raise NotImplementedError

    def after(self, problems: Problems, rows: Tensor, samples: int, last: int,
              look: Callable[[Tensor], Tensor] = lambda hidden: hidden,
              mask: Tensor | None = None, position: int | None = None) -> Tensor:
        """`look` applied to the last hidden states (B, last, D) of rows (B, T) that follow their
        questions, `samples` rows a question. The rows may be input embeddings (B, T, D).

        - last: how many columns; T + 1 includes the state at the end of the question.
        - look: maps each state (..., D) to (..., X) by itself.
        - mask (B, T): False on padding of the rows. None: rows are padded on the right only, and
          nobody uses the states of padding.
        - position: that of the first column of the rows, as of `read`.
        """
        hidden, segment = self.read(problems.question, problems.mask, last=1)
        tail = min(last, rows.shape[1])
        rest = look(self.read(rows, mask, [segment], False, tail, position)[0])
        if last <= rows.shape[1]:
            return rest
        return torch.cat([look(hidden).repeat_interleave(samples, 0), rest], 1)

    def branch(self, tokens: Tensor, passage: Segment, at: Tensor, own: Segment | None = None,
               ) -> tuple[Tensor, Segment]:
        """(hidden states (P, M, L, D) of tokens (P, M, L), the segment of these continuations).

        M continuations of each of P passages: one sees its passage up to the position `at` (P, M),
        and its own tokens. own: the segment of its earlier tokens; the one that is returned
        contains them too. Gradients flow through both.
        """
        raise NotImplementedError

    def decoder(self, segment: Segment, samples: int, room: int, leaving: bool = False) -> Decoder:
        """Rows that grow by up to `room` tokens, `samples` after each row of a segment. leaving:
        rows that finish early will be removed (`Decoder.select`).
        """
        raise NotImplementedError

    # --- what comes next ------------------------------------------------------------------------

    def logits(self, hidden: Tensor, vocabulary: slice | None = None) -> Tensor:
        """Logits (..., V) of states (..., D), for a slice of the vocabulary. None: for every token
        that the model may write.
        """
        raise NotImplementedError

    def logprobs(self, states: Tensor, target: Tensor, sampling: Sampling,
                 vocabulary: slice | None = None) -> Tensor:
        """(M, 2): log-probability of each token (M,) after its state (M, D), and the entropy of the
        distribution, in nats, over a slice of the vocabulary.
        """
        start = 0 if vocabulary is None else vocabulary.start or 0

        def part(some: Tensor, tokens: Tensor) -> Tensor:
            logits, tokens = at_least_float32(self.logits(some, vocabulary)), tokens - start
            full = distribution(logits, sampling, keep=tokens)
            spread = entropy(full if self.entropy_learns else full.detach())
            return torch.stack([full.gather(1, tokens[:, None])[:, 0], spread], 1)

        return torch.cat(in_chunks(part, states, target))

    def predict(self, states: Tensor, target: Tensor, vocabulary: slice | None = None,
                ) -> tuple[Tensor, Tensor]:
        """(-log p (...) of each token (...) after its state (..., D) in nats, the likeliest token
        (...)), over a slice of the vocabulary.
        """
        def part(some: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
            logits = at_least_float32(self.logits(some, vocabulary))
            flat = logits.flatten(0, -2)
            loss = F.cross_entropy(flat, tokens.flatten(), reduction="none").view_as(tokens)
            return loss, logits.argmax(-1)

        if not self.chunked:
            return part(states, target)
        parts = in_chunks(part, states.flatten(0, -2), target.flatten())
        losses, likeliest = zip(*parts, strict=True)
        return torch.cat(losses).view_as(target), torch.cat(likeliest).view_as(target)


def must_be_finite(net: nn.Module, typed: str) -> None:
    """Raise `UserError` where a weight of a model, which was typed so, is NaN or infinite."""
    for name, weight in net.named_parameters():
        if not weight.detach().sum(dtype=torch.float32).isfinite():
            raise UserError(f"{typed}: found weights that are not finite, the first of them in "
                            f"{name}; legal: a model whose training has not diverged")


def in_chunks(part: Callable[[Tensor, Tensor], Found], states: Tensor, target: Tensor,
              ) -> list[Found]:
    """`part` of states (M, D) and their tokens (M,), `CHUNK` at a time. With gradients, the logits
    are computed again in the backward pass.
    """
    again = torch.is_grad_enabled() and states.requires_grad

    def found(*pair: Tensor) -> Found:
        if not again:
            return part(*pair)
        return checkpoint(part, *pair, use_reentrant=False)  # type: ignore[return-value]

    return [found(*pair) for pair in zip(states.split(CHUNK), target.split(CHUNK), strict=True)]


def tokens_at_once(device: torch.device) -> int:
    """How many tokens are read in one pass without gradients: large matrix products are faster."""
    return 8192 if device.type == "cpu" else 16_384


def rows_at_once(count: int, width: int, device: torch.device, words: int = 1,
                 ) -> tuple[Tensor, ...]:
    """The numbers below `count` in parts: as many rows of `width` tokens as are read in one pass
    without gradients. words: so many logits of each token are in memory together.
    """
    most = min(tokens_at_once(device), LOGITS_AT_ONCE // words)
    return torch.arange(count, device=device).split(max(1, most // width))
