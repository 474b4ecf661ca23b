"""Keys of the tasks on running text."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.config.errors import shown
from ponder.config.option import option
from ponder.config.registry import TASKS, Entry, first_line

WORD = r"[^\W\d_]+(?:'[^\W\d_]+)*"
DOCUMENTS = (".txt", ".jsonl", ".parquet")


@dataclass
class TextTask:
    """Running text: the next token of every place."""

    name: str = option("text", "name of the task", legal=("text",))
    data: str | None = option(None, "text: a .txt, .jsonl or .parquet file, a directory or a glob "
                              "of such, or the name of a data set of the hub "
                              "(HuggingFaceFW/fineweb-edu), which is streamed")
    subset: str | None = option(None, "configuration of the data set of the hub (sample-10BT)")
    column: str = option("text", "the column that holds the text of a document")
    documents: int | None = option(None, "read so many documents; null: all", low=1)
    tokens: str = option("chars", "what text is cut into: characters, pieces of any length learnt "
                         "from the text, or the tokens of task.tokenizer",
                         legal=("chars", "trie", "hf"))
    tokenizer: str | None = option(None, "task.tokens=hf: a tokenizer of Hugging Face by name or "
                                   "directory")
    trie_size: int = option(2048, "task.tokens=trie: so many pieces, the 256 bytes among them",
                            low=257, high=2**20)
    learn_from: int = option(2**24, "characters and pieces are learnt from so many characters at "
                             "the beginning of the text", low=1)
    length: int = option(128, "tokens of a passage", low=2)
    held_out: float = option(0.1, "share of the documents that is never trained on; of fewer than "
                             "20 documents the end of each", low=0.0, high=0.9)
    test_passages: int = option(200, "held-out passages used by an evaluation", low=1)
    workers: int = option(0, "processes that cut the text into tokens; 0: one for each core",
                          low=0)
    places: str = option("random", "where thoughts are: behind all places of a passage, random "
                         "ones, or those with the hardest next tokens (for model.ref_name, else "
                         "for the model itself)", legal=("all", "random", "hardest"))
    place_count: int = option(16, "so many places of each passage", low=1)
    ahead: int = option(1, "so many next tokens are foreseen behind a thought; without "
                        "thoughts of every place, those behind the first by layers of their own",
                        low=1)
    mix: bool = option(True, "what is foreseen behind a thought is mixed with what is foreseen "
                       "without, in a share that is learnt")
    gold: str = option("none", "there are no gold thoughts", legal=("none",))
    thought_length: int = option(4, "the `think` variant allows so many thought tokens", low=1)
    seed: int = option(0, "which documents are held out: the same ones whatever the seed of a run, "
                       "so that no checkpoint has learnt what the next run is tested on")

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if not self.data:
            yield (f"task.data={'null' if self.data is None else ''}: found no text; legal: "
                   f"task.data=<file> ({', '.join(DOCUMENTS)}), a directory, a glob, or a data set "
                   "of the hub")
        elif not self.streamed and not self.files:
            found = "nothing to read there" if Path(self.data).exists() else "no such text"
            yield (f"task.data={self.data}: found {found}; legal: files that end in "
                   f"{', '.join(DOCUMENTS[:-1])} or {DOCUMENTS[-1]}, or <owner>/<name> of the hub")
        if self.tokens == "hf" and self.tokenizer is None:
            yield ("task.tokenizer=null: found no tokenizer; legal: a name on the hub or a "
                   "directory, or task.tokens=chars, trie")
        if self.held_out == 0:
            yield (f"task.held_out={self.held_out:g}: found no text to evaluate on; legal: above "
                   "0, at most 0.9")
        if config is not None and config.model.kind == "hf" and config.action != "problems":
            yield from own_tokens(config)
        if config is not None and self.name == "text":
            yield from _positions_need(config)

    @property
    def files(self) -> list[str]:
        """The local files that `data` names, in order."""
        path = Path(self.data or "")
        found = [str(path)] if path.is_file() else glob.glob(str(self.data), recursive=True)
        if path.is_dir():
            found = [str(file) for file in path.rglob("*")]
        return sorted(name for name in found if name.endswith(DOCUMENTS) and Path(name).is_file())

    @property
    def streamed(self) -> bool:
        """Whether `data` is the name of a data set of the hub: `owner/name`, and no file."""
        data = self.data or ""
        named = data.count("/") == 1 and not data.startswith((".", "/", "~")) and "*" not in data
        return named and not Path(data).exists() and not data.endswith(DOCUMENTS)


@dataclass
class CorpusTask(TextTask):
    """Prompts that are continued; rewards say what a continuation is worth."""

    name: str = option("corpus", "name of the task", legal=("corpus",))
    prompt: str | None = option(None, "every prompt is this text ('': none at all); null: prompts "
                                "are passages of task.data")
    length: int = option(16, "tokens of a prompt out of task.data", low=1)
    test_passages: int = option(200, "prompts that an evaluation continues", low=1)
    thought_length: int = option(24, "tokens of a continuation: the `think` variant allows so many",
                                 low=1)
    wanted: str = option("", "reward=wanted: the characters that count")
    unwanted: str = option("", "reward=unwanted: the characters that count")
    pattern: str = option("", "reward=pattern or matches: a regular expression (Python's re)")
    words: list[str] = option([], "reward=words: words in lower case, or .txt files with a word a "
                              "line")
    interim: bool = option(False, "a token earns what it adds to the reward of the text so far; "
                           "false: the text earns as a whole. The sums are the same")
    unit: bool = option(False, "the rewards of a text are kept within 0 and 1, before their "
                        "weights")
    enough: float = option(1.0, "a continuation that earns so much counts as right (accuracy)")

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        if self.data is not None or self.prompt is None:
            yield from super().contradictions()
        if config is not None:
            yield from _prompts_need(config)
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield (f"task.pattern={self.pattern}: found no regular expression ({error}); legal: "
                   "one that Python's re reads")
        for word in self.words:
            if word.endswith(".txt") and not Path(word).is_file():
                yield f"task.words=[{word}]: found no such file; legal: words, or .txt files"
            elif not word.endswith(".txt") and not (
                    word == word.lower() and re.fullmatch(WORD, word)):
                yield (f"task.words=[{word}]: found no word in lower case; legal: letters, and "
                       "apostrophes between them, or .txt files")


def _positions_need(config: Any) -> Iterator[str]:
    """What next tokens, and thoughts at the positions of a passage, ask of the other parts."""
    task = config.task
    if task.ahead >= task.length:
        yield (f"task.ahead={task.ahead}: found no place of a passage with so many next tokens; "
               f"legal: below task.length={task.length}")
    if config.model.kind == "hf" and config.thinker.tokens:
        yield from _thought_tokens_need(config)
    if config.model.kind == "hf" and task.ahead > 1 and not config.thinker.tokens:
        yield (f"task.ahead={task.ahead}: found model=hf, which foresees the next token; legal: 1, "
               "or a model such as nano, small")
    if config.thinker.tokens:
        yield from _thoughts_at_positions_need(config)


def _thoughts_at_positions_need(config: Any) -> Iterator[str]:
    """What thoughts at the positions of a passage ask for."""
    answerer, strategy = config.answerer, config.strategy
    if answerer.model != "shared":
        yield (f"answerer.model={answerer.model}: found task=text, where one network thinks and "
               "foresees; legal: shared")
    if set(answerer.sees) != {"question", "thought"}:
        yield (f"answerer.sees={shown(answerer.sees)}: found task=text, where a thought is read "
               "behind its passage; legal: [question,thought]")
    if getattr(strategy, "value", "none") != "none":
        yield (f"strategy.value={strategy.value}: found task=text, where no value head reads "
               "places; legal: none")
    if getattr(strategy, "kl", 0) not in (0, 0.0):
        yield (f"strategy.kl={shown(strategy.kl)}: found task=text, whose thoughts have no "
               "reference; legal: 0")


def _prompts_need(config: Any) -> Iterator[str]:
    """What says which tokens prompts are cut into, and that something is written."""
    if config.model.kind == "hf":
        yield from own_tokens(config)
        yield from _thought_tokens_need(config)
    elif config.task.data is None and config.model.name is None:
        yield ("task.data=null: found model.name=null, so nothing says what text is cut into; "
               "legal: task.data=<file>, or model.name=<checkpoint directory>")
    if config.action == "problems":
        return
    if config.thinker.tokens == 0:
        yield ("thinker.tokens=0: found task=corpus, where a thought is all that is written; "
               "legal: with think, as in variant=[think]")
    if config.thinker.writes == "thoughts":
        yield ("thinker.writes=thoughts: found task=corpus, which asks for a text; legal: text, "
               "both")


def own_tokens(config: Any) -> Iterator[str]:
    """A Hugging Face model reads text in no other tokens than its own."""
    if config.task.tokens != "chars":
        yield (f"task.tokens={config.task.tokens}: found model=hf, which reads its own tokens; "
               "legal: no word about it")


def _thought_tokens_need(config: Any) -> Iterator[str]:
    """Those of a text are the thinker's, and an end of thoughts."""
    typed, known = config.model.thought_tokens, config.thinker.vocabulary + 1
    if typed and config.thinker.writes in ("text", "auto") and (
            config.task.name == "corpus"):
        yield (f"model.thought_tokens={typed}: found thinker.writes=text, of which none is part; "
               "legal: 0, or thinker.writes=both")
    elif typed not in (0, known):
        yield (f"model.thought_tokens={typed}: found thinker.vocabulary={known - 1}, whose tokens "
               f"and an end of thoughts are added anyway; legal: 0, {known}")


for _keys, _offers in ((TextTask, {"answers", "positions"}), (CorpusTask, {"text"})):
    TASKS.add(Entry("task", _keys().name, None, "ponder.tasks", first_line(_keys), _keys,
                    offers=frozenset(_offers)))
