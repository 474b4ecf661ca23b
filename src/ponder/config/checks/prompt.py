"""What action=generate and action=chat ask of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from ponder.config.spine import Config


def prompt_contradictions(config: Config) -> Iterator[str]:
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
            yield (f"generate.{key}={value}: found action=chat, which writes one text as it goes; "
                   f"legal: {plain}")
    yield from config.generate.contradictions()
