"""Continuous batching of `transformers` (`rollout.engine=transformers`).

The library runs the network over pages of keys and values; which token comes next is drawn by our
own rule, from the uniform numbers of the row, inside of a logits processor. So temperature, top-k,
top-p, exploration and barred tokens are those of our own decoding, and so are texts (but for
rounding). Its own sampling has one seed for all rows and drops processors that it does not know.

Left out: CUDA graphs and double buffering, in which a processor is run once and then replayed.
"""

from __future__ import annotations

import functools
import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import Tensor

from ponder.config.errors import EngineFailed, UserError, brief
from ponder.core.lazy_imports import library
from ponder.core.math import Sampling, draw_tokens
from ponder.models.huggingface.model import Model
from ponder.rollouts.engines import Engine, Order, Row, tabled
from ponder.tokenizers.vocabulary import TextVocabulary

PAGE = 16  # tokens; whole pages of a prompt are shared by its rows
SPARE = 2  # pages of each row beyond what it needs
PATIENCE = 0.2  # seconds after which a stop may be heard
FAILED = "rollout.engine=transformers: continuous batching failed: "


class ContinuousBatching(Engine):
    """The thinker itself, decoded by `transformers`."""

    name = "transformers"
    own = False

    def identity(self) -> Any:
        return [self.name, version("transformers")]

    def write(self, net: Model, words: TextVocabulary, order: Order) -> tuple[Tensor, Tensor]:
        """Raises `UserError` for a network that the library cannot batch."""
        prompts, device = order.prompts, order.problems.question.device
        chooser = _chooser(net, order.sampling, order.noise().to(device))
        with net.attending(), _same_precision(net), self._manager(net, prompts, order) as manager:
            manager.logit_processor.logits_processor.append(chooser)
            manager.logit_processor.tensors_required += 1
            manager.logit_processor.do_processing = True
            for row in range(order.rows):
                manager.add_request(prompts[row // order.samples], str(row), order.room,
                                    eos_token_id=[*words.ends])
            manager.start()
            written = self._gathered(manager, order)
        return tabled(self._rows(written, chooser.logprobs), net, words, order)

    @contextmanager
    def _manager(self, net: Model, prompts: list[list[int]], order: Order) -> Iterator[Any]:
        """A manager of the library with pages for `order.at_once` rows, which ends in any case."""
        generation = library("transformers.generation.configuration_utils")
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # told by us
        side_by_side = min(order.at_once, order.rows)
        pages = -(-(max(map(len, prompts)) + order.room) // PAGE) + SPARE
        config = generation.ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=side_by_side * pages, use_cuda_graph=False,
            use_async_batching=False, max_requests_per_batch=side_by_side,
            max_batch_tokens=max(side_by_side * PAGE, 512), seed=order.seed,
            auto_switch_to_flash=net.device.type == "cuda")
        settings = generation.GenerationConfig(do_sample=False, max_new_tokens=order.room,
                                               eos_token_id=-1)
        try:
            manager = net.network.init_continuous_batching(settings, config)
        except Exception as error:  # each architecture fails in its own way
            raise _unable(net, brief(error)) from None
        try:
            yield manager
        finally:
            if manager.is_running():
                manager.stop(hard_stop=True)
            manager.destroy()

    @staticmethod
    def _gathered(manager: Any, order: Order) -> dict[int, list[int]]:
        """row -> its tokens, of every row."""
        found: dict[int, list[int]] = {}
        while len(found) < order.rows:
            try:
                result = manager.get_result(timeout=PATIENCE)
            except queue.Empty:
                result = None
            if result is None:
                order.heard(0, 0)
                if not manager.is_running():
                    raise EngineFailed(f"{FAILED}it ended before its rows; legal: own, vllm")
                continue
            if result.error is not None:
                line = " ".join(str(result.error).split())[:200]
                raise EngineFailed(f"{FAILED}{line}; legal: own, vllm")
            if result.is_finished():
                found[int(result.request_id)] = result.generated_tokens
                order.heard(len(result.generated_tokens), 1)
        return found

    @staticmethod
    def _rows(written: dict[int, list[int]], logprobs: Tensor) -> Iterator[Row]:
        known = logprobs.cpu()
        for row in range(len(written)):
            yield written[row], known[row, :len(written[row])].tolist()


@functools.cache
def _kind() -> Any:
    """The library's class of processors that know which rows they are given."""
    module = library("transformers.generation.continuous_batching.cb_logits_processors")
    return module.ContinuousBatchingLogitsProcessor


def _chooser(net: Model, sampling: Sampling, noise: Tensor) -> Any:
    """A logits processor that leaves each row nothing but its next token, drawn by noise
    (B, room); `logprobs` (B, room) are those of the tokens, as of `draw_tokens`.
    """
    class Chooser(_kind()):
        supported_kwargs: ClassVar[dict[str, type]] = {}
        ignored_kwargs = ()

        def __init__(self) -> None:
            self.logprobs = torch.zeros_like(noise)
            self.row, self.at = [], []

        def fill_defaults(self, int32_tensor: Tensor) -> None:
            int32_tensor.zero_()

        def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
            states = [request.state for request in requests_with_new_token]
            self.row = [int(state.request_id) for state in states]
            self.at = [noise.shape[1] - state.max_new_tokens + len(state.generated_tokens)
                       for state in states]  # a row that lost its pages begins again behind them
            return torch.zeros(len(states), dtype=torch.int32)

        def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
            own = scores[:len(self.row), :net.words]
            own[:, [*net.barred]] = -torch.inf
            token, logprob = draw_tokens(own, sampling, noise[self.row, self.at])
            self.logprobs[self.row, self.at] = logprob.to(self.logprobs.dtype)
            scores = torch.full_like(scores, -torch.inf)
            scores[torch.arange(len(token)), token] = 0.0
            return scores

    return Chooser()


@contextmanager
def _same_precision(net: Model) -> Iterator[None]:
    """The network's forward pass in the precision of this thread, whichever thread calls it."""
    device, network = net.device.type, net.network
    if not torch.is_autocast_enabled(device):
        yield
        return
    cast = torch.autocast(device, torch.get_autocast_dtype(device))
    network.forward = cast(network.forward)
    try:
        yield
    finally:
        del network.forward


def _unable(net: Model, reason: str) -> UserError:
    return UserError(f"rollout.engine=transformers: found a {type(net.network).__name__}, which "
                     f"it cannot batch ({reason}); legal: own, vllm")
