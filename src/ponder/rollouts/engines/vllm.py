"""A vLLM server writes texts (`rollout.engine=vllm`): token ids go out and come back over HTTP.

The server has an environment of its own and is started here (`engine.command`), or runs already
(`engine.url`). Weights are handed over as a directory of safetensors: an adapter is loaded under a
name that has their version in it, all weights are read in place of the old ones, after which the
cache of keys and values is emptied. The server says the version of its weights before and after
each batch.

Left out: several servers, and weights over anything but files.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from torch import Tensor

from ponder.config.engine import EngineConfig
from ponder.config.errors import EngineFailed
from ponder.config.players import HfConfig
from ponder.models.huggingface.model import Model
from ponder.rollouts.engines import Engine, Order, Row, tabled
from ponder.rollouts.engines.exchange import is_plain_adapter, rank_of, save_adapter, save_whole
from ponder.rollouts.engines.server import Client, Server, free_port
from ponder.tokenizers.vocabulary import TextVocabulary

SERVED = "ponder"  # the name of the model on a server that is started here
PATIENCE = 0.2  # seconds after which a stop may be heard
BARRED = -100.0  # added to the logit of what may not be written: the lowest that vLLM takes
ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1",  # so that it reads weights and says their version
               "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1",
               "DO_NOT_TRACK": "1"}


class VllmEngine(Engine):
    """Texts of a server that holds a copy of the thinker's weights.

    version: of the weights that it was given last. model: what it calls them.
    """

    name = "vllm"
    own = False

    def __init__(self, config: EngineConfig, model: HfConfig, scratch: Path) -> None:
        self.config, self.keys, self.scratch = config, model, scratch / "engine"
        self.server: Server | None = None
        self.client: Client | None = None
        self.folder: Path | None = None
        self.base = self.model = SERVED
        self.version: str | None = None
        self.given = 0

    def identity(self) -> Any:
        return [self.name]

    # --- weights --------------------------------------------------------------------------------

    def hand_over(self, net: Model, words: TextVocabulary, version: str,
                  heard: Callable[[], None] = lambda: None) -> None:
        """Raises `EngineFailed` for a server that does not start, or does not read the weights."""
        if version == self.version:
            return
        adapter, begins = is_plain_adapter(net), self.client is None
        folder = self._folder() / f"weights_{self.given}"
        self.given += 1
        if begins and self.config.url is None:
            save_whole(net, words, folder, merged=not adapter)
            self._start(net, folder, adapter, heard)
        elif begins:
            self._connect()
        if adapter:
            folder = self._folder() / f"adapter_{self.given}"
            save_adapter(net, words, folder)
            self._load_adapter(folder, version)
        elif not (begins and self.config.url is None):
            save_whole(net, words, folder)
            self._reload(folder)
        self._ask("/update_weight_version", {"new_version": version})
        self._must_have(version)
        self.version = version
        self._forget(folder)

    def _start(self, net: Model, folder: Path, adapter: bool, heard: Callable[[], None]) -> None:
        port = free_port()
        wanted = {"--served-model-name": SERVED, "--host": "127.0.0.1", "--port": port,
                  "--dtype": self.keys.dtype, "--logprobs-mode": "processed_logprobs",
                  "--generation-config": "vllm", "--max-lora-rank": rank_of(net) if adapter else ""}
        typed = shlex.split(self.config.command)
        first = typed.index("serve") + 1 if "serve" in typed else len(typed)
        command = [*typed[:first], str(folder.resolve()), *typed[first:]]  # else it is refused
        command += ["--enable-lora"] if adapter else []
        for flag, value in wanted.items():
            if value and flag not in typed:
                command += [flag, str(value)]
        log = self.scratch / f"{self._folder().name}.log"
        self.server = Server(self.config.command, command, ENVIRONMENT, log)
        self.client = Client(f"http://127.0.0.1:{port}", self.config.retries, self.server.gone)
        quick = Client(self.client.url, 0, self.server.gone)
        self.server.wait(lambda: quick.ask("/health", timeout=5.0), self.config.start_timeout,
                         heard)

    def _connect(self) -> None:
        """Find the name of the model on a server that is running."""
        assert self.config.url is not None
        self.client = Client(self.config.url.rstrip("/"), self.config.retries, lambda: None)
        try:
            self.base = self.model = str(self._ask("/v1/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise EngineFailed(f"engine.url={self.config.url}: found no model there; legal: the "
                               "address of a vLLM server") from None

    def _load_adapter(self, folder: Path, version: str) -> None:
        before, name = self.model, f"{SERVED}-{version[:16]}"
        self._ask("/v1/load_lora_adapter", {
            "lora_name": name, "lora_path": str(folder.resolve()),
            "load_inplace": True}, self.config.start_timeout)  # where it was asked before
        self.model = name
        if before != self.base:
            self._ask("/v1/unload_lora_adapter", {"lora_name": before})

    def _reload(self, folder: Path) -> None:
        """Read all weights, and forget what was computed with the old ones."""
        self._ask("/collective_rpc", {"method": "reload_weights", "kwargs": {
            "weights_path": str(folder.resolve())}}, self.config.start_timeout)
        self._ask("/reset_prefix_cache", {})

    def _must_have(self, version: str) -> None:
        """Raises `EngineFailed` where the server says that it has other weights."""
        found = self._ask("/weight_info")
        found = found.get("weight_version") if isinstance(found, dict) else found
        if found != version:
            raise EngineFailed(f"{self._client.url}: found weights of version {found}, but the "
                               f"thinker's are {version}; legal: a server that nobody else gives "
                               "weights to")

    def _forget(self, kept: Path) -> None:
        """Delete the weights that were given before; a server needs none of them any more."""
        for old in self._folder().iterdir():
            if old != kept:
                shutil.rmtree(old, ignore_errors=True)

    # --- texts ----------------------------------------------------------------------------------

    def write(self, net: Model, words: TextVocabulary, order: Order) -> tuple[Tensor, Tensor]:
        """Raises `EngineFailed` for a server that fails, is slow, or has other weights."""
        assert self.version is not None, "weights are handed over first"
        self._must_have(self.version)
        bodies = [*self._requests(net, words, order)]
        found: dict[int, list[Row]] = {}
        side_by_side = max(1, min(order.at_once // order.samples, len(bodies)))
        with ThreadPoolExecutor(side_by_side) as pool:
            asked = {pool.submit(self._rows, body, order): number
                     for number, body in enumerate(bodies)}
            try:
                self._gather(asked, found, order)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._client.give_up()
                self._again()
                raise
        self._must_have(self.version)
        return tabled((row for number in range(len(bodies)) for row in found[number]), net, words,
                      order)

    @staticmethod
    def _gather(asked: dict[Future[list[Row]], int], found: dict[int, list[Row]],
                order: Order) -> None:
        waiting = {*asked}
        while waiting:
            done, waiting = wait(waiting, PATIENCE, FIRST_COMPLETED)
            for one in done:
                rows = found[asked[one]] = one.result()
                order.heard(sum(len(tokens) for tokens, _ in rows), len(rows))
            order.heard(0, 0)

    def _requests(self, net: Model, words: TextVocabulary, order: Order) -> Iterator[Any]:
        """The body of a request for each question; its rows have the seeds that follow its own."""
        strange = [*net.barred, *range(net.words or len(net.head), len(net.head))]
        count = order.samples if order.sampling.temperature else 1  # greedy rows are all equal
        shared = {"model": self.model, "max_tokens": order.room, "n": count, "logprobs": 0,
                  "temperature": order.sampling.temperature, "top_k": order.sampling.top_k,
                  "top_p": order.sampling.top_p, "stop_token_ids": [*words.ends],
                  "return_token_ids": True, "skip_special_tokens": False,
                  "logit_bias": {str(token): BARRED for token in strange} or None}
        seeds = order.seeds()
        for number, prompt in enumerate(order.prompts):
            yield {**shared, "prompt": prompt, "seed": seeds[number * order.samples]}

    def _rows(self, body: Any, order: Order) -> list[Row]:
        """The rows of one question. Raises `EngineFailed` for an answer without what was asked."""
        said = self._ask("/v1/completions", body, self.config.timeout)
        try:
            choices = sorted(said["choices"], key=lambda choice: choice["index"])
            rows = [([int(token) for token in one["token_ids"]],
                     [float(value) for value in one["logprobs"]["token_logprobs"]])
                    for one in choices]
            whole = len(rows) == body["n"] and all(
                0 < len(tokens) == len(likely) <= order.room for tokens, likely in rows)
        except (KeyError, TypeError, ValueError, AttributeError):
            whole, rows = False, []
        if not whole:
            raise EngineFailed(f"{self._client.url}/v1/completions: found an answer without "
                               f"{body['n']} rows of token ids and log-probabilities; legal: "
                               "vLLM, which takes return_token_ids")
        return rows * (order.samples // body["n"])

    # --- the server -----------------------------------------------------------------------------

    @property
    def _client(self) -> Client:
        assert self.client is not None, "weights are handed over first"
        return self.client

    def _ask(self, path: str, body: Any = None, timeout: float | None = None) -> Any:
        return self._client.ask(path, body, timeout or self.config.timeout)

    def _again(self) -> None:
        """A client that has given nothing up."""
        old = self._client
        self.client = Client(old.url, old.retries, old.alive)

    def _folder(self) -> Path:
        if self.folder is None:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="vllm_", dir=self.scratch))
        return self.folder

    def close(self) -> None:
        """End the server, if it was started here, and delete the weights."""
        if self.server is not None:
            self.server.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.server = self.client = self.folder = self.version = None
        self.base = self.model = SERVED
