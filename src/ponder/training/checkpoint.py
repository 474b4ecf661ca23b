"""Checkpoints: directories that open in plain `transformers`, written whole or not at all.

The thinker lies at the top (config.json, model.safetensors, tokenizer), a separate answerer in
`answerer/`, and the resolved configuration in ponder.json.

A checkpoint is trusted when every file has the hash that its manifest says; a damaged one is
reported and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ponder.config.errors import UserError, brief
from ponder.config.inputs import file_sha256
from ponder.core.distributed import full_state_dict, is_main_process, shard_state_dict
from ponder.models.backbone import must_be_finite
from ponder.models.gpt2.model import Shape, Transformer
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import restore_text_model, save_text_model
from ponder.models.policies.base import Policy
from ponder.tokenizers.pieces import FILE, PieceVocabulary
from ponder.tokenizers.vocabulary import END, PAD, TextVocabulary, Vocabulary
from ponder.training.run_directory import write_json


def save(policy: Policy, directory: Path, config: dict[str, Any],
         state: dict[str, Any] | None = None, about: dict[str, Any] | None = None,
         weights: dict[str, Tensor] | None = None) -> None:
    """Write a checkpoint directory so that a crash at any moment leaves an intact one.

    Everything is written under a temporary name and synced; then the old directory is renamed, the
    new one takes its place, and the old one is removed. state: the training state. about: what the
    manifest says besides the hash of every file. weights: `saved_weights`, which every process has
    to call before the main one saves. Raises `UserError` on a full disk, where the temporary
    directory is removed and earlier checkpoints stay.
    """
    temporary = directory.with_name(f".{directory.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        _write_models(policy, temporary, saved_weights(policy) if weights is None else weights)
        _write(temporary, config, state, about or {"step": 0, "epoch": 0})
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{directory}: cannot be written ({brief(error)}); legal: a disk with "
                        "room; what was saved before is whole") from None
    aside = directory.with_name(f".{directory.name}.old")
    if directory.exists():
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
    temporary.rename(directory)
    _sync(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


def attempt(policy: Policy, directory: Path, typed: str) -> None:
    """Save the networks into a directory of their own and remove them: what a run needs at its end
    is tried at its start. Every process must call this. typed: the key and model, for the line.

    Raises `UserError` for a model that transformers cannot save, and on a full disk.
    """
    weights, trial = saved_weights(policy), directory / ".trial"
    if not is_main_process():
        return  # the others must not remove what the main one is writing
    try:
        _write_models(policy, trial, weights)
    except Exception as error:  # each architecture fails in its own way
        raise UserError(f"{typed}: found a model that cannot be saved ({brief(error)}); legal: "
                        "another model, or a disk with room for two of its checkpoints") from None
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def saved_weights(policy: Policy) -> dict[str, Tensor]:
    """The full weights that `save` writes: all of them, or with adapters those that are trained.
    Every process must call this.
    """
    adapted = policy.thinker.adapted
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    return full_state_dict(policy, lambda name: not adapted or name in trained)


def _write(temporary: Path, config: dict[str, Any], state: dict[str, Any] | None,
           about: dict[str, Any]) -> None:
    """Write the other files of a checkpoint, and wait until all are on the disk."""
    write_json(temporary / "ponder.json", {"config": config})
    if state is not None:
        torch.save(state, temporary / "state.pt")
    files = {str(path.relative_to(temporary)): file_sha256(path)
             for path in sorted(temporary.rglob("*")) if path.is_file()}
    write_json(temporary / "manifest.json", {**about, "files": files})
    for path in (*temporary.rglob("*"), temporary):
        _sync(path)


def _write_models(policy: Policy, directory: Path, weights: dict[str, Tensor]) -> None:
    def of(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in weights.items()
                if name.startswith(prefix)}

    net, words = policy.thinker, policy.vocabulary
    if isinstance(net, Model) and isinstance(words, TextVocabulary):
        save_text_model(net, directory, words, of("thinker.model."))
    else:
        assert isinstance(net, Transformer) and isinstance(words, Vocabulary)
        save_pretrained(net, directory, words, of("thinker."))
        other = policy.answerer
        if isinstance(other, Transformer) and other is not net:
            save_pretrained(other, directory / "answerer", words, of("answerer."))
    for name in policy.attached:
        save_file({key: value.detach().contiguous().cpu() for key, value in of(f"{name}.").items()},
                  directory / f"{name}.safetensors")


def load_attached(policy: Policy, directory: Path) -> None:
    """Load the modules that a checkpoint keeps beside its networks, where there are any.

    Raises `UserError` for a file that does not hold such a module.
    """
    for name, module in policy.attached.items():
        path = directory / f"{name}.safetensors"
        try:
            if path.is_file():
                module.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{path}: cannot be read ({brief(error)}); legal: that of the "
                            "checkpoint") from None


def _sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_pretrained(model: Transformer, directory: Path, vocabulary: Vocabulary,
                    weights: dict[str, Tensor] | None = None) -> None:
    """Write config.json, model.safetensors and a tokenizer, as `transformers` reads them. weights:
    by default the model's own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shape = model.shape
    write_json(directory / "config.json", {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
        "vocab_size": shape.vocabulary, "n_positions": shape.positions, "n_embd": shape.d_model,
        "n_layer": shape.layers, "n_head": shape.heads, "activation_function": "gelu_new",
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": shape.tied, "pad_token_id": vocabulary.pad,
        "bos_token_id": vocabulary.end, "eos_token_id": vocabulary.end,
        "ponder_sinusoidal": shape.sinusoidal})
    known = model.state_dict() if weights is None else weights
    save_file({name: value.detach().contiguous().cpu() for name, value in known.items()},
              directory / "model.safetensors", metadata={"format": "pt"})
    if isinstance(vocabulary, PieceVocabulary):
        write_json(directory / FILE, vocabulary.pieces.state())
    _save_tokenizer(directory, vocabulary)


def _save_tokenizer(directory: Path, vocabulary: Vocabulary) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = vocabulary.words
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)},
                                           unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False)
                                  for word in words if word.startswith(("<", "#"))])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "eos_token": END,
        "unk_token": PAD, "clean_up_tokenization_spaces": False})


def restore(policy: Policy, directory: Path) -> None:
    """Give a policy the weights of its own earlier checkpoint. Raises `UserError` where they have
    other shapes, as of a version in which the task had other tokens.
    """
    thinker = policy.thinker
    if isinstance(thinker, Model):
        restore_text_model(thinker, directory)
        return
    nets = {directory: policy.thinker, directory / "answerer": policy.answerer}
    for path, net in nets.items():
        if path == directory or net is not policy.thinker:
            weights = load_file(path / "model.safetensors")
            try:
                net.load_state_dict(shard_state_dict(net, weights))
            except RuntimeError as error:
                raise UserError(f"resume={directory.parent}: found weights of other shapes "
                                f"({brief(error)}); legal: the version of Ponder that began the "
                                "run, or resume=never") from None


def load_model(directory: Path, key: str = "model.name") -> Transformer:
    """The transformer of a checkpoint directory, which `key` named.

    Raises `UserError` where it cannot be one.
    """
    try:
        config = json.loads((directory / "config.json").read_text())
        with (directory / "model.safetensors").open("rb"):
            pass  # where it may not be read, safetensors says that there is none
        weights = load_file(directory / "model.safetensors")
    except Exception as error:  # safetensors raises a class of its own for damaged files
        raise UserError(f"{key}={directory}: cannot be read ({brief(error)}); legal: a "
                        "directory with config.json and model.safetensors, both intact") from None
    if not isinstance(config, dict) or config.get("model_type") != "gpt2":
        raise UserError(f"{key}={directory}: found a config.json of another architecture; "
                        "legal: model_type gpt2")
    try:
        model = Transformer(Shape(
            config["vocab_size"], config["n_positions"], config["n_embd"], config["n_layer"],
            config["n_head"], bool(config.get("ponder_sinusoidal")),
            bool(config.get("tie_word_embeddings", True))))
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{key}={directory}: weights do not fit its config.json "
                        f"({brief(error)}); legal: the two of one checkpoint") from None
    must_be_finite(model, f"{key}={directory}")
    if model.shape.sinusoidal:
        model.wpe.weight.requires_grad_(False)
    return model


def weights_sha256(model: nn.Module, weights: dict[str, Tensor] | None = None) -> str:
    """Hash of all weights by name: equal exactly where every bit of every tensor is equal.

    Of a policy: the weights of thinker and answerer, without value head and reference models.
    weights: as in `save`.
    """
    digest, passing = hashlib.sha256(), ("frozen.", "critic.", "reference.")
    for name, value in sorted((model.state_dict() if weights is None else weights).items()):
        if isinstance(model, Policy) and (name.startswith(passing) or ".reference" in name):
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- checkpoints of a run ------------------------------------------------------------------------

@dataclass(frozen=True)
class Saved:
    """An intact checkpoint of a run."""

    path: Path
    step: int
    accuracy: float | None

    def state(self, device: torch.device) -> dict[str, Any]:
        """The training state. Only tensors and plain values are unpickled."""
        found = torch.load(self.path / "state.pt", map_location="cpu", weights_only=True, mmap=True)
        return _moved(found, device)


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors moved to the device, also inside dictionaries and lists. The optimizer's stay on the
    disk (memory-mapped) until they are read, as a process may need a shard of them only.
    """
    if isinstance(value, dict):
        return {name: item if name == "optimizer" else _moved(item, device)
                for name, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    return value.to(device, copy=True) if isinstance(value, torch.Tensor) else value


def newest(directory: Path, note: Callable[[str], None]) -> Saved | None:
    """The newest intact checkpoint of a run directory; None without one.

    Damaged ones are renamed, and `note` is called with a line about each.
    """
    for path, manifest in list(_manifests(directory)):
        fault = _fault(path, manifest)
        if fault is None:
            return Saved(path, manifest["step"], manifest.get("accuracy"))
        renamed = path.with_name(f"damaged_{path.name.lstrip('.')}")
        shutil.rmtree(renamed, ignore_errors=True)
        path.rename(renamed)
        note(f"{path}: damaged ({fault}), now {renamed.name}; going back to the one before")
    return None


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one; 0 keeps all."""
    found = list(_manifests(directory))
    best = max(found, key=lambda entry: (entry[1].get("accuracy") or 0.0, entry[1]["step"]),
               default=None)
    for path, _ in found[keep:] if keep else []:
        if best is None or path != best[0]:
            shutil.rmtree(path, ignore_errors=True)


def _manifests(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Checkpoints and their manifests, newest first; a hidden one was about to be replaced."""
    found = []
    for path in [*directory.glob("checkpoint_*"), *directory.glob(".checkpoint_*.old")]:
        try:
            manifest = json.loads((path / "manifest.json").read_text())
            found.append(((int(manifest["step"]), int(manifest["epoch"])), path, manifest))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for _, path, manifest in sorted(found, key=lambda entry: entry[0], reverse=True):
        yield path, manifest


def _fault(path: Path, manifest: dict[str, Any]) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file_sha256(file) != expected:
            return f"{name} has changed"
    return None
