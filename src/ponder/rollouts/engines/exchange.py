"""Weights in a directory of safetensors, as a server of another program reads them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ponder.config.errors import writing
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import save_text_model
from ponder.tokenizers.vocabulary import TextVocabulary

HEAD = "head.safetensors"  # in a directory of weights: an output matrix of its own


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
        if net.adapted:
            with net.attending():
                own = copy.deepcopy(net.model)
                whole = own.merge_and_unload(adapter_names=["default"]) if merged else own.unload()
                whole.save_pretrained(directory)
            words.tokenizer.save_pretrained(directory)
        else:
            save_text_model(net, directory, words)
            whole = net.network
        if whole.config.get_text_config().tie_word_embeddings:
            _untie(whole, directory)


def _untie(model: Any, directory: Path) -> None:
    """Give a saved model an output matrix of its own. vLLM reads weights in place of others layer
    by layer, and leaves an output matrix that is the embeddings' as it was.
    """
    head = model.get_output_embeddings()
    name = next(name for name, part in model.named_modules() if part is head) + ".weight"
    save_file({name: head.weight.detach().clone().cpu()}, directory / HEAD, {"format": "pt"})
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        about = json.loads(index.read_text())
        about["weight_map"][name] = HEAD
        index.write_text(json.dumps(about))
    config = directory / "config.json"
    about = json.loads(config.read_text())
    for part in (about, about.get("text_config") or {}):
        if "tie_word_embeddings" in part or part is about:
            part["tie_word_embeddings"] = False
    config.write_text(json.dumps(about))
