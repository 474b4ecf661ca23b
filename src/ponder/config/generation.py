"""Keys of action=generate and action=chat: how a checkpoint goes on from a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ponder.config.option import option

if TYPE_CHECKING:
    from ponder.config.spine import Config


@dataclass
class GenerateConfig:
    """How a prompt is continued: sampled, or by beam search."""

    tokens: int = option(200, "new tokens at most", low=1)
    samples: int = option(1, "so many texts; of a beam search the n best", low=1)
    temperature: float = option(1.0, "softmax temperature; 0: always the likeliest token", low=0.0)
    top_k: int = option(0, "sample from the k likeliest tokens; 0: from all", low=0)
    top_p: float = option(1.0, "sample from the smallest set with this probability", low=1e-6,
                          high=1.0)
    beams: int = option(0, "beam search with so many beams; 0: sample", low=0)
    length_penalty: float = option(1.0, "beam search: a text is worth log p / n^length_penalty, n "
                                   "its new tokens with the end; 0: log p itself; above 0 longer "
                                   "texts gain")
    stopping: str = option("bound", "beam search ends when as many texts as beams have ended "
                           "(first); when besides none that goes on would be worth more if it "
                           "ended now (bound), or at any length (exact)",
                           legal=("first", "bound", "exact"))
    thoughts: str = option("colour", "thoughts are shown in colour, as plain text, or not at all",
                           legal=("colour", "plain", "hidden"))

    def contradictions(self, config: Config) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        talks = config.action == "chat"
        if config.model.name is None:
            yield (f"action={config.action}: found model.name=null; legal: with "
                   "model.name=<checkpoint directory, or name on the hub>")
        if config.prompt is None and not talks:
            yield "action=generate: found prompt=null; legal: with prompt=<text>"
        if talks and config.prompt is not None:
            yield (f"prompt={config.prompt}: found action=chat, where prompts are typed; legal: "
                   "action=generate, or no prompt")
        if talks and config.out:
            yield f"out={config.out}: found action=chat; legal: action=generate, or no out"
        for key, plain in (("beams", 0), ("samples", 1)):
            value = getattr(config.generate, key)
            if talks and value != plain:
                yield (f"generate.{key}={value}: found action=chat, which writes one text as it "
                       f"goes; legal: {plain}")
        for key, plain in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
            value = getattr(self, key)
            if self.beams and value != plain:
                yield (f"generate.{key}={value:g}: found generate.beams={self.beams}, and a beam "
                       f"search samples nothing; legal: {plain:g}, or generate.beams=0")
        if self.beams and self.samples > self.beams:
            yield (f"generate.samples={self.samples}: found generate.beams={self.beams}; legal: at "
                   "most as many as beams")
        for key, plain in (("length_penalty", 1.0), ("stopping", "bound")):
            value = getattr(self, key)
            if not self.beams and value != plain:
                yield (f"generate.{key}={value}: found generate.beams=0, so no beam search; legal: "
                       f"{plain}, or generate.beams=<number>")
