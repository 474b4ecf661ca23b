"""From a composed node to the checked configuration, with what a checkpoint was trained with; and
which files a configuration reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, brief
from ponder.config.option import legal_words
from ponder.config.registry import SOURCE, TASKS, discover, plugin_files
from ponder.config.spine import OF_A_PROMPT, OF_THE_CALL

SHAPE = {"d_model": "n_embd", "layers": "n_layer", "heads": "n_head",
         "tie_embeddings": "tie_word_embeddings"}  # key of the model -> in a config.json
OF_THIS_CALL = ("action", "run_type", "out", "step", "logger", "scratch", "model.name",
                "trainer.device", "trainer.threads", "generate")


def read(node: Any) -> Any:
    """The checked configuration of a composed node, before anything heavy is loaded."""
    from omegaconf import OmegaConf

    from ponder.config.checker import check

    if node.model.name and node.model.kind == "transformer":
        _of_its_shape(node)
    if node.action in ("evaluate", *OF_A_PROMPT) and node.model.name:
        node = _with_checkpoint(node)
    config: Any = OmegaConf.to_object(node)
    check(config)
    return config


def typed_words() -> list[str]:
    """The overrides of the present job as they were typed; none where Hydra runs no job."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    return [str(word) for word in HydraConfig.get().overrides.task]


def _typed() -> list[str]:
    """The keys that were typed."""
    return [word.partition("=")[0].lstrip("+~") for word in typed_words()]


def _of_its_shape(node: Any) -> None:
    """Raise `UserError` for a shape that was typed beside a checkpoint of another one."""
    try:
        saved = json.loads((Path(node.model.name) / "config.json").read_text())
        shape = {key: saved.get(name) for key, name in SHAPE.items()}
    except (OSError, ValueError, AttributeError):
        return  # what is wrong there is told later
    typed = _typed()
    for key, found in shape.items():
        asked = node.model[key]
        if {"model", f"model.{key}"} & {*typed} and found not in (None, asked):
            raise UserError(f"model.{key}={asked}: found model.name={node.model.name}, where it "
                            f"is {found}; legal: that, or no word about it")


def _with_checkpoint(node: Any) -> Any:
    """What the checkpoint was trained with, under what was typed.

    Raises `UserError` for variants that are not the checkpoint's: its networks know no others. But
    a model of text speaks without its thoughts too (think=false).
    """
    from omegaconf import OmegaConf

    from ponder.config.spine import VARIANTS, variants

    merged = _of_checkpoint(Path(node.model.name) / "ponder.json")
    typed = _typed()
    if merged is None:
        if "task.data" in typed:
            _ask_all(node, typed, None)
        return foreign(node) if node.action in OF_A_PROMPT else node
    trained_on = OmegaConf.select(merged, "task.data")
    if {"task", "experiment"} & set(typed) and node.task.name != merged.task.name:
        merged.task = node.task
    merged.prompt = written(node, "prompt")
    merged.plugins = list(dict.fromkeys([*merged.plugins, *node.plugins]))
    for key in (*OF_THIS_CALL, *(key for key in typed if key == "seed" or "." in key)):
        if not key.startswith("hydra."):
            OmegaConf.update(merged, key, OmegaConf.select(node, key))
    _ask_all(merged, typed, trained_on)
    of_text = node.action in OF_A_PROMPT and bool(
        {"text", "positions"} & TASKS[merged.task.name].offers)
    others = [name for word in typed_words() if word.startswith("variant=")
              for name in re.findall(r"[\w-]+", word)[1:] if name not in VARIANTS]
    if others:
        raise UserError(f"variant: found {others[0]} beside a checkpoint, which has been trained "
                        f"with or without it; legal: {', '.join(VARIANTS)}, or no word about it")
    if "variant" in typed and of_text and not variants(node):
        merged.thinker.tokens = 0
    elif "variant" in typed and variants(node) != variants(merged):
        raise UserError(f"variant=[{','.join(variants(node))}]: found a checkpoint trained "
                        f"otherwise; legal: [{','.join(variants(merged))}], or no word about it")
    return merged


def _ask_all(node: Any, typed: list[str], trained_on: str | None) -> None:
    """Hold out all rows of a table that is evaluated on, unless the checkpoint was trained on it
    or a share was typed.
    """
    from omegaconf import OmegaConf

    data = OmegaConf.select(node, "task.data")
    if (node.action == "evaluate" and data not in (None, trained_on)
            and "task.held_out" not in typed and "questions" in TASKS[node.task.name].offers):
        node.task.held_out = 1.0


def checkpoint_config(name: str, device: str = "auto") -> Any:
    """The configuration with which a checkpoint directory, or a model of Hugging Face, generates
    and answers. Raises `UserError` where `name` is neither.
    """
    from omegaconf import OmegaConf

    from ponder.config.spine import register, restored

    register()  # the resolver that configurations of checkpoints refer to
    merged = _of_checkpoint(Path(name) / "ponder.json")
    if merged is None:
        merged = restored({"task": {"name": "add"}, "model": {"kind": "transformer", "name": name},
                           "rollout": {"kind": "sample"}, "strategy": {"name": "reinforce"}})
        merged = foreign(merged)
    merged.action, merged.model.name, merged.trainer.device = "chat", name, device
    return OmegaConf.to_object(merged)


def _of_checkpoint(path: Path) -> Any:
    """The configuration in a checkpoint's ponder.json; None for a directory from elsewhere."""
    from ponder.config.spine import restored, schemas

    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text())["config"]
        discover(saved.get("plugins") or ())
        for key, default in vars(schemas("task")[saved["task"]["name"]]()).items():
            if str(default).startswith(("${ponder.", "${.")):  # computed: follows what is typed
                saved["task"].pop(key, None)
        return restored(saved)
    except UserError:  # of a plugin, which says itself what is missing
        raise
    except Exception as error:
        reason = brief(error)
        raise UserError(f"{path}: cannot be read ({reason}); legal: the ponder.json of a "
                        "checkpoint of this version") from None


LEGAL = ("a checkpoint directory, a directory with a model or an adapter of Hugging Face, or its "
         "name on the hub")


def foreign(node: Any) -> Any:
    """A composed node whose model is one of Hugging Face, as there is no ponder.json beside it.

    Raises `UserError` where `model.name` can be none.
    """
    from omegaconf import OmegaConf

    from ponder.config.players import HfConfig

    name = node.model.name
    refuse(name)
    if node.model.kind != "hf":
        node.model = OmegaConf.structured(HfConfig(name=name))
    return node


def refuse(name: str) -> None:
    """Raise `UserError` for a name that is no directory with a model and no name on the hub."""
    path = Path(name)
    if not path.exists():
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or name.startswith("star_runs/"):
            raise UserError(f"model.name={name}: found no such directory; legal: {LEGAL}")
        return
    if any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        return
    raise UserError(f"model.name={name}: {no_model(path, LEGAL)}")


def no_model(path: Path, legal: str) -> str:
    """What is found in a directory without a model, and what is legal: of a run its newest
    checkpoint.
    """
    saved = sorted(path.glob("checkpoint_*"), key=lambda one: one.stat().st_mtime)
    return (f"found a run; legal: a checkpoint of it, as {saved[-1]}" if saved else
            f"found no config.json there; legal: {legal}")


def written(node: Any, key: str) -> str | None:
    """The text of a key as it was written: what is escaped in it stays so."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.masked_copy(node, key), resolve=False)
    return content[key]


# --- what a run reads -----------------------------------------------------------------------------

SMOLLM2 = Path("scratch/models/smollm2-135m-instruct")
HASHES = Path("scratch") / "hashes"  # of large files
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
    with ThreadPoolExecutor(4) as pool:  # hashing large files holds no lock
        return dict(zip(files, pool.map(content_hash, files.values()), strict=True))


def input_files(config: Any) -> dict[str, Path]:
    """The files of `inputs`."""
    from ponder.config.checker import leaves

    found = {f"plugins/{name}": file for file, name in plugin_files()}
    for key, value, about in leaves(config):
        if key.split(".")[0] in (*OF_THE_CALL, "plugins") or legal_words(about):
            continue
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and word:
                found |= _files_of(key, word)
    task = config.task
    if getattr(task, "files", None) and task.data and not task.streamed:
        texts = {f"task.data/{os.path.relpath(name, task.data)}": Path(name) for name in task.files}
        found |= texts if "task.data" not in found else {}
    return found


def _files_of(key: str, word: str) -> dict[str, Path]:
    """The files that a value names, by what `inputs` calls them."""
    with contextlib.suppress(OSError, ValueError):  # a text that can be no name
        if ("." in word or "/" in word) and Path(word).is_file():
            return {key: Path(word)}
    return {f"{key}/{name}": file for name, file in model_files(word).items()}


def model_files(name: str) -> dict[str, Path]:
    """The files that are read of a model, an adapter or a checkpoint, by their names in its
    directory; as `base/...` those of the model that an adapter belongs to.
    """
    folder = _model_directory(name)
    if folder is None:
        return {}
    found = {str(file.relative_to(folder)): file for place in PLACES for file in folder.glob(place)
             if file.suffix in READ and file.name not in UNREAD and file.is_file()}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        base = base_of(folder)
        found |= {f"base/{one}": file for one, file in (model_files(base) if base else {}).items()}
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


def _model_directory(name: str) -> Path | None:
    """Where a model lies on this machine: a directory, or a snapshot of the hub."""
    if name == "smollm2":
        return SMOLLM2 if SMOLLM2.is_dir() else None
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


def check_models(config: Any) -> None:
    """Raise `UserError` for a model or adapter on this machine of which a file is cut off or no
    JSON, before anything heavy is loaded.
    """
    from ponder.config.checker import toy_task

    for key in ("name", "ref_name", "chat_name"):
        name = getattr(config.model, key, None) or ""
        for file, path in model_files(name).items():
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


def content_hash(path: Path) -> str:
    """The beginning of the SHA-256 of a file. That of a large file is remembered under `HASHES`, as
    long as size, times and inode stay.
    """
    told = _told(path)
    note = HASHES / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    if told[0] >= LARGE:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(note.read_text())
            if known["told"] == told:
                return known["sha256"]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if told[0] >= LARGE and _told(path) == told and time.time_ns() - max(told[1:3]) > SETTLED:
        with contextlib.suppress(OSError):  # nowhere to write: it is computed again
            note.parent.mkdir(parents=True, exist_ok=True)
            temporary = note.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({"told": told, "sha256": found}))
            temporary.replace(note)
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
