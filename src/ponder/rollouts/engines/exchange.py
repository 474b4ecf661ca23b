"""Weights in a directory of safetensors, as a server of another program reads them."""

from __future__ import annotations

import copy
from pathlib import Path

from ponder.config.errors import writing
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import save_text_model
from ponder.tokenizers.vocabulary import TextVocabulary


def is_plain_adapter(net: Model) -> bool:
    """Whether what learns is LoRA alone. Rows of new tokens that learn beside it are no part of an
    adapter that a server reads, so they are merged.
    """
    if not net.adapted:
        return False
    config = net.model.peft_config["default"]
    return (getattr(config, "bias", "none") == "none"
            and getattr(config, "trainable_token_indices", None) is None
            and not getattr(config, "modules_to_save", None))


def rank_of(net: Model) -> int:
    """The rank of the adapters."""
    return int(net.model.peft_config["default"].r)


def save_adapter(net: Model, words: TextVocabulary, directory: Path) -> None:
    """Write the adapter alone."""
    with writing(directory):
        save_text_model(net, directory, words)


def save_whole(net: Model, words: TextVocabulary, directory: Path, merged: bool = True) -> None:
    """Write a plain model with all weights: with adapters and new tokens merged, or without the
    adapters. The network stays as it is.
    """
    with writing(directory):
        if not net.adapted:
            save_text_model(net, directory, words)
            return
        with net.attending():
            own = copy.deepcopy(net.model)
            whole = own.merge_and_unload(adapter_names=["default"]) if merged else own.unload()
            whole.save_pretrained(directory)
        words.tokenizer.save_pretrained(directory)
