"""Keys of the program that writes texts (`rollout.engine`)."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ponder.config.option import option
from ponder.config.registry import TASKS

if TYPE_CHECKING:
    from ponder.config.spine import Config

ENGINES = ("own", "transformers", "vllm")
WRITES = ("choice", "continuation")  # kinds of policies whose texts an engine writes


@dataclass
class EngineConfig:
    """How the engine that writes texts is reached, and when its numbers are believed."""

    command: str = option("vllm serve", "vllm: starts a server; the model, its address and what "
                          "the run needs are added. vLLM has an environment of its own, so this "
                          "is often the path of the program there")
    url: str | None = option(None, "vllm: address of a server that is running already, as in "
                             "http://127.0.0.1:8000; null: one is started by engine.command, and "
                             "ends with the run")
    gap: float = option(0.05, "largest mean difference, in nats, between the log-probabilities of "
                        "the engine and of our own forward pass; above it the run ends", low=0)
    rescored: int = option(16, "so many rows are computed again by our own forward pass after each "
                           "handing over of weights", low=1)
    timeout: float = option(600.0, "vllm: seconds in which a question must be answered", low=0.01)
    start_timeout: float = option(900.0, "vllm: seconds in which a server must have started, or "
                                  "have read new weights", low=0.01)
    retries: int = option(2, "vllm: a request that failed is sent so many times more", low=0)

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        name = config.rollout.engine
        if name == "own":
            return
        typed = f"rollout.engine={name}"
        yield from _nothing_to_write(config, typed)
        if config.trainer.data_parallel == "shard":
            yield (f"trainer.data_parallel=shard: found {typed}, which is given whole weights; "
                   "legal: replicate, or rollout.engine=own")
        if name == "vllm":
            yield from _not_of_vllm(config)
            yield from self._unreachable()

    def _unreachable(self) -> Iterator[str]:
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
                yield (f"engine.url={self.url}: found no address of a server; legal: "
                       "http://<host>:<port>")
            return
        try:
            program = (shlex.split(self.command) or [""])[0]
        except ValueError as error:
            yield f"engine.command={self.command}: found {error}; legal: a command"
            return
        if shutil.which(program) is None:
            yield (f"engine.command={self.command}: found no program {program!r}; legal: the path "
                   "of vLLM's, as in engine.command='/path/to/bin/vllm serve', or "
                   "engine.url=http://<host>:<port> of a server that is running")


def _nothing_to_write(config: Config, typed: str) -> Iterator[str]:
    """Thoughts that are no texts of a Hugging Face model are sampled where they are made."""
    if config.model.kind != "hf":
        yield (f"{typed}: found model.kind={config.model.kind}, which decodes by itself; legal: "
               "own, or a Hugging Face model, as in model=smollm2")
    target = TASKS[config.task.name].target
    if getattr(target, "policy_kind", "") not in WRITES:
        able = [entry.name for entry in TASKS
                if getattr(entry.target, "policy_kind", "") in WRITES]
        yield (f"{typed}: found task={config.task.name}, whose thoughts are no texts after a "
               f"question; legal: own, or with task={', '.join(able)}")


def _not_of_vllm(config: Config) -> Iterator[str]:
    """Distributions that a server does not sample from."""
    rollout = config.rollout
    if rollout.epsilon not in (0, 0.0):
        yield (f"rollout.epsilon={rollout.epsilon}: found rollout.engine=vllm, which does not "
               "explore; legal: 0, or rollout.engine=transformers or own")
    if rollout.top_k and rollout.top_p < 1:
        yield (f"rollout.top_k={rollout.top_k}: found rollout.top_p={rollout.top_p} with "
               "rollout.engine=vllm, which takes the second set within the first, where we take "
               "both of the whole; legal: one of the two, or rollout.engine=transformers or own")
