"""Short texts, and small networks that think after each of their tokens."""

from __future__ import annotations

import torch

from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.next_token import PositionPolicy
from ponder.tokenizers.pieces import Characters, PieceVocabulary

SENTENCE = "the cat sat on the mat and the rat sat on the cat. "
TEXT = "the cat sat on the mat. a dog ran to the sea. " * 40


def network(words: int = 12, positions: int = 24) -> Transformer:
    torch.manual_seed(0)
    return Transformer(Shape(words, positions, 16, 2, 4), Init(0.3, 0.3, 0.5, 0.3)).double()


def thinker(stops: bool, ahead: int, mixes: bool) -> PositionPolicy:
    vocabulary = PieceVocabulary(Characters("abcde"), 4)
    policy = PositionPolicy(network(len(vocabulary)), vocabulary, Rules(3, stops), ahead, mixes)
    return policy.double()
