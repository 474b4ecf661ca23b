"""action=push and action=pull: checkpoints to the Hugging Face Hub and back.

Nothing is sent but what the keys name: a folder is made first, listed, and then sent as a whole.
`hub.dry=true` ends after the list.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import UserError, brief, writing
from ponder.config.inputs import file_sha256
from ponder.config.running import HubConfig
from ponder.config.spine import Config
from ponder.core.lazy_imports import library
from ponder.reports.card import Origin, dataset_card, model_card, without_folders

HERE_ONLY = ("state.pt",)  # of a checkpoint: with which its run goes on
OF_THE_HUB = (".gitattributes",)  # which it puts into every repository
MARKS = {"model": "manifest.json", "dataset": "generated.csv"}  # equal where the content is
PULLED = "star_runs/pulled"


@dataclass(frozen=True)
class Parcel:
    """A folder that is sent as a repository. kind: model or dataset."""

    folder: Path
    repo: str
    kind: str

    @property
    def key(self) -> str:
        """The key that names it, as it is typed."""
        return f"hub.{'repo' if self.kind == 'model' else 'dataset'}={self.repo}"

    def described(self, private: bool) -> str:
        """What it holds, a line each."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        who = "private" if private else "public"
        lines = [f"  {path.relative_to(self.folder)}  {path.stat().st_size:,} bytes"
                 for path in files]
        return "\n".join([f"{self.repo} ({self.kind}, {who} if it is new): {len(files)} files, "
                          f"{size:,} bytes, in {self.folder}", *lines])


def run(config: Config) -> None:
    """Do what `config.action` says."""
    (push if config.action == "push" else pull)(config)


# --- push -----------------------------------------------------------------------------------------

def push(config: Config) -> None:
    """Send a checkpoint with its card, and where `hub.dataset` says so the rollouts."""
    hub, api = config.hub, None
    origin = Origin(_checkpoint(Path(config.model.name or "")))
    if not hub.dry:
        api = _api("push")
    parcels = _packed(config, origin)
    for parcel in parcels:
        print(parcel.described(hub.private))
    if api is None:
        print("nothing was sent (hub.dry=true)")
        return
    for parcel in parcels:
        with _errors(parcel.key):
            _must_be_free(api, parcel, hub)
    for parcel in parcels:
        with _errors(parcel.key):
            api.create_repo(parcel.repo, repo_type=parcel.kind, private=hub.private, exist_ok=True)
            done = api.upload_folder(
                repo_id=parcel.repo, repo_type=parcel.kind, folder_path=parcel.folder,
                delete_patterns="*" if hub.replace else None,
                commit_message=f"Ponder: step {origin.step}")
            print(f"sent to {getattr(done, 'commit_url', '') or parcel.repo}")


def _checkpoint(path: Path) -> Path:
    """The checkpoint that `model.name` names: itself, or the newest of a run. Raises `UserError`
    where there is none, or where its files are not those that were saved.
    """
    found = [path] if (path / "manifest.json").is_file() else sorted(
        (one.parent for one in path.glob("checkpoint_*/manifest.json")),
        key=lambda one: (_manifest(one)["step"], one.stat().st_mtime))
    if not found:
        raise UserError(f"model.name={path}: found no checkpoint there; legal: a checkpoint that "
                        "Ponder has saved, or the directory of a run")
    for name, expected in _manifest(found[-1])["files"].items():
        file = found[-1] / name
        if name not in HERE_ONLY and (not file.is_file() or file_sha256(file) != expected):
            raise UserError(f"model.name={found[-1]}: found {name} missing or changed since it was "
                            "saved; legal: a whole checkpoint")
    return found[-1]


def _manifest(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "manifest.json"
    try:
        told = json.loads(path.read_text("utf-8"))
        return {**told, "step": int(told["step"]), "files": dict(told["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({brief(error)}); legal: that of a checkpoint"
                        ) from None


def _packed(config: Config, origin: Origin) -> list[Parcel]:
    """The folders that are to be sent, made anew below `out`."""
    hub = config.hub
    home = Path(config.out or Path(config.scratch) / "hub")
    parcels = [Parcel(home / "model", str(hub.repo), "model")]
    if hub.dataset:
        if not origin.rows:
            raise UserError(f"hub.dataset={hub.dataset}: found no {origin.table}; legal: a "
                            "checkpoint at whose step its run was evaluated")
        parcels.append(Parcel(home / "dataset", hub.dataset, "dataset"))
    with writing(home):
        for parcel in parcels:
            _must_be_ours(parcel)
            shutil.rmtree(parcel.folder, ignore_errors=True)
            parcel.folder.mkdir(parents=True)
            if parcel.kind == "model":
                _pack_model(origin, parcel.folder)
                card = model_card(origin, parcel.repo, hub.licence, hub.dataset)
            else:
                shutil.copyfile(origin.table, parcel.folder / "generated.csv")
                card = dataset_card(origin, parcel.repo, str(hub.repo), hub.licence)
            (parcel.folder / "README.md").write_text(card, "utf-8")
    return parcels


def _must_be_ours(parcel: Parcel) -> None:
    """Raise `UserError` for a folder that an earlier call has not made."""
    folder = parcel.folder
    if folder.exists() and not {MARKS[parcel.kind], "README.md"} <= {
            path.name for path in folder.iterdir()}:
        raise UserError(f"out={folder.parent}: found something else in {folder}; legal: another "
                        "directory")


def _pack_model(origin: Origin, folder: Path) -> None:
    """Copy a checkpoint without its training state, and without folders of this machine in its
    configuration; its manifest has the hashes of what is sent.
    """
    manifest = _manifest(origin.checkpoint)
    names = [name for name in manifest["files"] if name not in HERE_ONLY]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin.checkpoint / name, folder / name)
    for name in {"ponder.json", "adapter_config.json"} & {*names}:
        told = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps(without_folders(told), indent=2) + "\n", "utf-8")
    about = {key: value for key, value in manifest.items() if key not in ("files", "inputs")}
    files = {name: file_sha256(folder / name) for name in names}
    (folder / MARKS["model"]).write_text(json.dumps({**about, "files": files}, indent=2) + "\n")


def _must_be_free(api: Any, parcel: Parcel, hub: HubConfig) -> None:
    """Raise `UserError` for a repository that is public, or in which there is something else."""
    errors, mark = library("huggingface_hub.errors"), MARKS[parcel.kind]
    try:
        found = api.repo_info(parcel.repo, repo_type=parcel.kind)
    except errors.RepositoryNotFoundError:
        return
    if hub.private and not found.private:
        raise UserError(f"{parcel.key}: found a public repository; legal: hub.private=false, or a "
                        "private one")
    files = {one.rfilename for one in found.siblings} - {*OF_THE_HUB}
    if hub.replace or not files:
        return
    if mark in files:
        there = api.hf_hub_download(parcel.repo, mark, repo_type=parcel.kind)
        if file_sha256(Path(there)) == file_sha256(parcel.folder / mark):
            return
    raise UserError(f"{parcel.key}: found a repository with other content "
                    f"({', '.join(sorted(files)[:3])}); legal: another name, or hub.replace=true, "
                    "which takes the place of all that is there")


# --- pull -----------------------------------------------------------------------------------------

def pull(config: Config) -> None:
    """Bring a checkpoint into a directory that `model.name` takes."""
    hub, repo = config.hub, str(config.hub.repo)
    target = Path(config.out or Path(PULLED) / repo)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"out={target}: found something there; legal: a directory that is not "
                        "there yet")
    api, making = _api("pull"), target.with_name(f".{target.name}.tmp")
    with writing(target), _errors(f"hub.repo={repo}"):
        files = {one.rfilename for one in api.repo_info(repo, revision=hub.revision).siblings}
        if not {"config.json", "adapter_config.json"} & files:
            raise UserError(f"hub.repo={repo}: found no config.json in the repository; legal: one "
                            "with a checkpoint, or a model of Hugging Face")
        shutil.rmtree(making, ignore_errors=True)
        try:
            api.snapshot_download(repo, revision=hub.revision, local_dir=making)
            shutil.rmtree(making / ".cache", ignore_errors=True)
            with contextlib.suppress(OSError):
                target.rmdir()  # an empty one
            making.rename(target)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    if (target / MARKS["model"]).is_file():
        _checkpoint(target)
    print(f"{repo} is in {target}; use it as model.name={target}")


# --- the hub --------------------------------------------------------------------------------------

def _api(action: str) -> Any:
    """The hub's client. Raises `UserError` where it may not be asked, or to push without a
    token.
    """
    hub = library("huggingface_hub")
    for client in ("httpx", "httpx2"):  # which tell of every request
        logging.getLogger(client).setLevel(logging.WARNING)
    if library("huggingface_hub.constants").HF_HUB_OFFLINE:
        raise UserError(f"action={action}: found HF_HUB_OFFLINE=1 in the environment; legal: "
                        f"HF_HUB_OFFLINE=0{', or hub.dry=true' * (action == 'push')}")
    if action == "push" and not hub.get_token():
        raise UserError("action=push: found no token of the Hugging Face Hub; legal: hf auth "
                        "login, HF_TOKEN in the environment, or hub.dry=true")
    return hub.HfApi()


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Any error of the hub or the way to it becomes a `UserError` that begins with `what`."""
    errors = library("huggingface_hub.errors")
    try:
        yield
    except UserError:
        raise
    except errors.RepositoryNotFoundError:
        raise UserError(f"{what}: found no such repository on the hub, or none that this token may "
                        "see; legal: user/name of one") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{what}: found no such hub.revision there; legal: a branch, tag or commit"
                        ) from None
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", 0)
        legal = ("a token that may write there (hf auth login, HF_TOKEN)" if code in (401, 403)
                 else "again later")
        raise UserError(f"{what}: the hub refuses ({brief(error)}); legal: {legal}") from None
    except Exception as error:  # of the network, each library has its own
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise  # of the disk
        raise UserError(f"{what}: the hub cannot be asked ({type(error).__name__}: "
                        f"{brief(error)}); legal: with a network, and HF_ENDPOINT where the hub is "
                        "another") from None
