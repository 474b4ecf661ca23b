"""The files that a configuration reads: which ones its values name, hashes of their content, and
what is wrong with those of models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ponder.config.checker import leaves
from ponder.config.errors import UserError, brief, replacing
from ponder.config.examples import located
from ponder.config.option import legal_words
from ponder.config.registry import SOURCE, plugin_files
from ponder.config.spine import OF_THE_CALL

SCRATCH = Path("scratch")  # where the key `scratch` says nothing else
HASHES = "hashes"  # below `scratch`: those of large files
PROMPTS = "prompts"  # an input: the encoded held-out questions, which no key names
LARGE = 2**20  # bytes from which on a hash is remembered
SETTLED = 2 * 10**9  # nanoseconds after which a change of a file shows in its times
READ = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".py", ".tiktoken"}
UNREAD = {"ponder.json", "manifest.json", "trainer_state.json", "training_args.bin"}
PARSED = {f"{name}.json" for name in (  # other JSON there may be anybody's
    "config", "generation_config", "adapter_config", "tokenizer", "tokenizer_config",
    "special_tokens_map", "added_tokens", "chat_template")}
PLACES = ("*", "answerer/*", "additional_chat_templates/*")  # of files in a model's directory


def inputs(config: Any) -> dict[str, str]:
    """The hash of the content of every file that decides what a configuration computes, by its key
    and, where that names several files, their names: `task.data`, `model.name/config.json`.

    That is every file that a value names, what is read of a model or adapter and (as `base/`) of
    the adapter's base, and plugins. Two runs with equal keys and equal inputs compute the same.
    """
    files = dict(sorted(input_files(config).items()))
    known = partial(content_hash, scratch=Path(config.scratch))
    with ThreadPoolExecutor(4) as pool:  # hashing large files holds no lock
        return dict(zip(files, pool.map(known, files.values()), strict=True))


def input_files(config: Any) -> dict[str, Path]:
    """The files of `inputs`."""
    found = {f"plugins/{name}": file for file, name in plugin_files()}
    for key, value, about in leaves(config):
        if key.split(".")[0] in (*OF_THE_CALL, "plugins") or legal_words(about):
            continue
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and word:
                found |= _files_of(key, word, Path(config.scratch))
    task = config.task
    if getattr(task, "files", None) and task.data and not task.streamed:
        texts = {f"task.data/{os.path.relpath(name, task.data)}": Path(name) for name in task.files}
        found |= texts if "task.data" not in found else {}
    return found


def _files_of(key: str, word: str, scratch: Path) -> dict[str, Path]:
    """The files that a value names, by what `inputs` calls them."""
    with contextlib.suppress(OSError, ValueError):  # a text that can be no name
        if ("." in word or "/" in word) and located(word).is_file():
            return {key: located(word)}
    return {f"{key}/{name}": file for name, file in model_files(word, scratch).items()}


def model_files(name: str, scratch: Path = SCRATCH) -> dict[str, Path]:
    """The files that are read of a model, an adapter or a checkpoint, by their names in its
    directory; as `base/...` those of the model that an adapter belongs to.
    """
    folder = _model_directory(name, scratch)
    if folder is None:
        return {}
    found = {str(file.relative_to(folder)): file for place in PLACES for file in folder.glob(place)
             if file.suffix in READ and file.name not in UNREAD and file.is_file()}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        if base := base_of(folder):
            found |= {f"base/{one}": file for one, file in model_files(base, scratch).items()}
    return found


def base_of(folder: Path) -> str | None:
    """The model that the adapter in a directory says it belongs to. A relative name is one of a
    directory in the adapter's, beside it, further up, or in the working directory, and only then
    one on the hub.
    """
    named = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not named:
        return None
    own = folder.resolve()
    beside = (above / named for above in (own, *own.parents)
              if (above / named / "config.json").is_file())
    return str(next(beside, named))


def unpacked(scratch: Path) -> Path:
    """Where the model `smollm2` lies once it is unpacked from its package."""
    return scratch / "models" / "smollm2-135m-instruct"


def _model_directory(name: str, scratch: Path) -> Path | None:
    """Where a model lies on this machine: a directory, or a snapshot of the hub."""
    if name == "smollm2":
        return unpacked(scratch) if unpacked(scratch).is_dir() else None
    with contextlib.suppress(OSError, ValueError):
        path = Path(name)
        if any((path / one).is_file() for one in ("config.json", "adapter_config.json")):
            return path
        if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
            home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
            cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
            folder = cache / f"models--{name.replace('/', '--')}"
            snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
            return snapshot if snapshot.is_dir() else None
    return None


# --- what is wrong with them ----------------------------------------------------------------------

def check_models(config: Any) -> None:
    """Raise `UserError` for a model or adapter on this machine of which a file is cut off or no
    JSON, before anything heavy is loaded.
    """
    for key in ("name", "ref_name", "chat_name"):
        name = getattr(config.model, key, None) or ""
        for file, path in model_files(name, Path(config.scratch)).items():
            try:
                _check_file(path)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"model.{key}={name}: cannot be read ({file}: {brief(error)}); "
                                "legal: a directory whose files are intact") from None
        if config.model.kind == "hf" and (about := toy_task(name)):
            raise UserError(f"model.{key}={name}: found a checkpoint of task={about}, which knows "
                            f"no words; legal: without model=hf and with task={about}, or a "
                            "language model")


def _check_file(path: Path) -> None:
    """Raise an error of any kind where JSON, or a file of weights, is not whole."""
    if path.name in PARSED or path.name.endswith(".index.json"):
        found = json.loads(path.read_text("utf-8"))
        for part in {*found["weight_map"].values()} if path.name.endswith(".index.json") else ():
            if not (path.parent / part).is_file():
                raise ValueError(f"{part} is missing")
    elif path.suffix == ".safetensors":
        with path.open("rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if not 2 <= length <= size - 8:
                raise ValueError("it has no header, or is cut off")
            about = json.loads(file.read(length))
        ends = [one["data_offsets"][1] for name, one in about.items() if name != "__metadata__"]
        if size < 8 + length + max(ends, default=0):
            raise ValueError(f"it is cut off after {size} bytes")


def toy_task(name: str) -> str | None:
    """The task of a checkpoint that reads nothing but the questions of a toy task."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        about = json.loads((Path(name) / "ponder.json").read_text())["config"]
        if about["model"]["kind"] == "transformer" and not (Path(name) / "tokens.json").is_file():
            return about["task"]["name"]
    return None


# --- hashes ---------------------------------------------------------------------------------------

def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: Path, scratch: Path = SCRATCH) -> str:
    """The beginning of the SHA-256 of a file. That of a large file is remembered below `scratch`,
    as long as size, times and inode stay.
    """
    told = _told(path)
    if told[0] < LARGE:
        return file_sha256(path)[:16]
    note = scratch / HASHES / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text())
        if known["told"] == told:
            return known["sha256"]
    found = file_sha256(path)[:16]
    if _told(path) == told and time.time_ns() - max(told[1:3]) > SETTLED:
        with contextlib.suppress(OSError), replacing(note) as temporary:  # else computed again
            temporary.write_text(json.dumps({"told": told, "sha256": found}))
    return found


def _told(path: Path) -> list[int]:
    """What changes with a file's content, without reading it."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The names in two `inputs` whose content differs, or that only one has, of keys that both
    have: runs of earlier versions have none.
    """
    def keys(names: dict[str, str]) -> set[str]:
        return {name.partition("/")[0] for name in names}

    both = keys(before) & keys(now)
    return sorted((name for name in before.keys() | now.keys()
                   if before.get(name) != now.get(name) and name.partition("/")[0] in both),
                  key=lambda name: (name == PROMPTS, name))  # which follow from the files


def source_hash(*rooms: str) -> str:
    """Hash of the source of some rooms of this package, and of plugins: of what decides how a text
    is written, or judged.
    """
    digest = hashlib.sha256()
    files = [file for room in rooms for file in sorted((SOURCE / room).rglob("*.py"))]
    for file in [*files, *(file for file, _ in plugin_files())]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
