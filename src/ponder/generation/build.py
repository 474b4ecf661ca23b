"""What a checkpoint is, read from its files and configuration, and made to speak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ponder.config.errors import UserError
from ponder.config.spine import Config, writes
from ponder.generation.contexts import OwnWindow, TextWindow
from ponder.generation.muser import ForeignMuser, Muser
from ponder.generation.ponderer import Ponderer
from ponder.generation.position_contexts import PlaceWindow, TextPlaceWindow
from ponder.generation.speakers import Foreigner, Narrator, Speaker, ends_of
from ponder.generation.wordless import Wordless
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.models.policies.latent import Continuous
from ponder.tokenizers.pieces import FILE, PieceVocabulary, load_pieces
from ponder.training.build import run as builders
from ponder.training.build.reading import place_thinker, text_place_thinker
from ponder.training.checkpoint import load_model

Net = TypeVar("Net", bound=nn.Module)


def build_speaker(config: Config) -> Speaker:
    """The speaker of `model.name`: a language model of Hugging Face, one of ours on text, or the
    thinker and answerer of a task. Raises `UserError`.
    """
    path, device = Path(config.model.name), builders.build_device(config)
    if config.model.kind == "hf":
        return _of_hugging_face(config, device)
    if (path / FILE).is_file():
        return _of_text(config, path, device)
    if hasattr(config.task, "data"):
        config = replace(config, task=replace(config.task, data=None))  # questions are typed
    config = replace(config, model=replace(config.model, ref_name=None))  # nor compared
    task = builders.build_task(config)
    policy, question = builders.build_policy(config, task), task.encode_question
    policy = _ready(config, policy, device)
    if isinstance(policy, Continuous):
        return Wordless(policy, question)
    return Ponderer(policy, question)


def _of_hugging_face(config: Config, device: torch.device) -> Foreigner:
    """A model of Hugging Face; on text it thinks behind its places where it has learnt to."""
    of_text = config.task.name == "text"
    if of_text and config.thinker.tokens:
        policy = _ready(config, text_place_thinker(config), device)
        words: Any = policy.vocabulary
        return ForeignMuser(TextPlaceWindow(policy, ends_of(policy.net, words)), words)
    vocabulary = load_vocabulary(config.model, closes=writes(config) == "both")
    net = _ready(config, load_text_model(config.model, len(vocabulary)), device)
    if of_text:  # the plain model of one that thinks
        net.words = vocabulary.plain
    return Foreigner(TextWindow(net, ends_of(net, vocabulary)), vocabulary)


def _of_text(config: Config, path: Path, device: torch.device) -> Narrator:
    """A GPT-2 of ours on text, which thinks behind its places, or among its words, where it has
    learnt to.
    """
    net, pieces = load_model(path), load_pieces(path)
    thoughts = net.shape.vocabulary - len(PieceVocabulary(pieces, 0))
    if thoughts < 0:
        raise UserError(f"model.name={path}: found {net.shape.vocabulary} tokens, fewer than its "
                        f"{FILE} names; legal: the two of one checkpoint")
    vocabulary = PieceVocabulary(pieces, thoughts)
    thinks = config.thinker.tokens > 0
    among_words = thinks and config.task.name == "corpus" and writes(config) == "both"
    words, ends = vocabulary.written(True, among_words), (vocabulary.end_of_text,)
    if config.task.name != "text" or not thinks:
        return Narrator(OwnWindow(_ready(config, net, device), words, ends), vocabulary)
    policy = place_thinker(config, net, vocabulary)
    return Muser(PlaceWindow(_ready(config, policy, device), words, ends), vocabulary)


def _ready(config: Config, net: Net, device: torch.device) -> Net:
    """A network on its device, for no more than being asked."""
    builders.use_threads(config, net)
    return net.to(device).requires_grad_(False).eval()
