"""Keys of the two players: their networks, the thinker, the answerer."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.config.fields import option

ROLES = ("question", "thought")


@dataclass
class ModelConfig:
    """A GPT-2 of any size, or a checkpoint."""

    name: str | None = option(None, "checkpoint directory to start from")
    ref_name: str | None = option(None, "checkpoint of the reference model (reward=reference)")
    d_model: int = option(64, "width", low=4)
    layers: int = option(2, "number of blocks", low=1)
    heads: int = option(4, "attention heads", low=1)
    positions: str = option("learned", "position embedding", legal=("learned", "sinusoidal"))
    init_std: float = option(0.3, "standard deviation of the initial matrices (GPT-2: 0.02)", low=0)
    query_key_std: float = option(0.1, "of those that make queries and keys (GPT-2: 0.02)", low=0)
    embedding_std: float = option(1.0, "of the token embeddings (GPT-2: 0.02)", low=0)
    position_std: float = option(0.3, "of learned position embeddings (GPT-2: 0.02)", low=0)
    head_std: float = option(0.1, "of a head that is not tied to the embeddings", low=0)
    tie_embeddings: bool = option(False, "input and output embeddings share their weights")


@dataclass
class ThinkerConfig:
    """Who writes the thoughts, and in what words."""

    tokens: int = option(0, "at most so many thought tokens before the answer", low=0)
    vocabulary: int = option(10, "number of thought tokens that exist", low=1)
    stops: bool = option(True, "ends a thought by itself; false: always exactly `tokens`")


def thought_count(tokens: int, vocabulary: int, stops: bool, enough: int | None = None) -> int:
    """How many thoughts there are; counting ends above `enough`, and at lengths of 64, which are
    more than any use has."""
    count = 0
    for length in range(0 if stops else tokens, tokens + 1):
        count += vocabulary ** min(length, 64)
        if enough is not None and count > enough:
            break
    return count


@dataclass
class AnswererConfig:
    """Who predicts the answer, from what it sees."""

    model: str = option("separate", "same network as the thinker, a second one, or a frozen copy "
                        "that scores thoughts", legal=("shared", "separate", "frozen"))
    sees: list[str] = option(["question", "thought"], "roles in its context", legal=ROLES)
    learns_from: str = option("own", "thoughts it is trained on: the thinker's own or the task's "
                              "gold ones", legal=("own", "gold"))
    refresh_every: int = option(100, "steps between refreshes of the frozen copy", low=1)
