"""Behind the door: command line in, one action done, exit code out."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

from ponder.compat import rewrite
from ponder.errors import UserError, explain

CONF = Path(__file__).resolve().parents[2] / "conf"


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 a bug or a failed job, 2 a mistake in the input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--help" in arguments or "-h" in arguments:
        from ponder.help import help_text

        print(help_text(CONF))
        return 0
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        _compose_and_run(rewrite(arguments, CONF))
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        line = explain(error, CONF)
        if line is None:
            raise
        return _refuse(line)
    return 0


def _refuse(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 2


def _compose_and_run(arguments: list[str]) -> None:
    import hydra

    from ponder.config import register

    register()
    sys.argv = [sys.argv[0], *arguments]
    refused: list[UserError] = []
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(
        functools.partial(job, refused=refused))()
    if refused:
        raise refused[0]


def job(node: Any, refused: list[UserError]) -> float | None:
    """One composed job. Mistakes in the input are handed back, so that Hydra adds no words."""
    try:
        return _job(node)
    except UserError as error:
        refused.append(error)
        return None


def _job(node: Any) -> float | None:
    """Check everything, then load torch and act."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from ponder.check import check

    config = OmegaConf.to_object(_with_checkpoint(node))
    check(config)  # type: ignore[arg-type]
    from ponder.actions import run

    directory = Path(os.path.relpath(HydraConfig.get().runtime.output_dir))
    return run(config, directory)  # type: ignore[arg-type]


def _with_checkpoint(node: Any) -> Any:
    """`action=evaluate`: the checkpoint's own configuration under what the user typed."""
    if node.action != "evaluate" or not node.model.name:
        return node
    import json

    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    path = Path(node.model.name) / "ponder.json"
    if not path.is_file():
        return node
    saved = OmegaConf.merge(node, json.loads(path.read_text())["config"])
    for override in HydraConfig.get().overrides.task:
        key = override.partition("=")[0].lstrip("+~")
        found = OmegaConf.select(node, key)
        if found is not None or "." in key:
            OmegaConf.update(saved, key, found)
    return saved
