"""Questions from a file that a language model answers: multiple-choice ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from ponder.config.errors import UserError, closest
from ponder.config.option import option
from ponder.config.registry import TASKS, task
from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problem, Problems
from ponder.tasks.base import Task, hashed_share, leaked, missing, padded
from ponder.tasks.choice import questions as prompts
from ponder.tasks.choice.answers import letters_of
from ponder.tasks.choice.questions import HELD_OUT, Question, read_questions
from ponder.tokenizers.vocabulary import TextVocabulary


@dataclass
class QuestionKeys:
    """Questions from a file."""

    name: str = option("questions", "name of the task")
    data: str | None = option(None, "questions: .csv, .jsonl or .parquet with the columns "
                              "question, A, B, ... (or choices), answer, and perhaps id, subject, "
                              "split")
    test_data: str | None = option(None, "held-out questions; null: the rows of `data` whose "
                                   "split is test or val, else a share of them")
    subjects: list[str] = option([], "only questions of these subjects; none: of all")
    train_questions: int | None = option(None, "train on so many questions; null: on all", low=1)
    test_questions: int = option(200, "held-out questions used by an evaluation", low=1)
    held_out: float = option(0.2, "share that is held out where no split says which; 1, which "
                             "action=evaluate takes for a table of its own: all", low=0.0,
                             high=1)
    answer: str = option("generated", "how a question is answered: by the written text",
                         legal=("generated",))
    preamble: str | None = option(None, "instruction in front of the question; null: one that "
                                  "fits the way of answering")
    shots: int = option(0, "worked examples in front", low=0)
    shots_data: str | None = option(None, "file of the worked examples, with a column rationale "
                                    "where they think; null: training questions")
    stop: list[str] | None = option(None, "a written text also ends before any of these; null: "
                                    "before the next question that a base model asks itself "
                                    "(no chat template), where the answer is in the text")
    shuffle: bool = option(True, "training questions in a new order every epoch")
    gold: str = option("none", "there are no gold thoughts", legal=("none",))
    thought_length: int = option(128, "longest rationale in tokens; the `think` variant allows as "
                                 "many", low=1)
    seed: int = option("${seed}", "which questions are held out")

    @property
    def file_keys(self) -> tuple[str, ...]:
        """The keys that name files."""
        return ("data", "test_data", "shots_data")

    def contradictions(self, config: Any = None) -> Iterator[str]:
        """A line for each combination of legal values that makes no sense."""
        if self.held_out == 1 and config is not None and config.action == "train":
            yield (f"task.held_out={self.held_out:g}: found no question to train on; legal: below "
                   "1, or action=evaluate")
        from_file = TASKS[self.name].target.from_files  # and not from where a subclass says
        if self.data is None and from_file:
            yield ("task.data=null: found no questions; legal: task.data=<file>.csv, .jsonl, "
                   ".parquet")
        if "" in (self.stop or []):
            yield "task.stop: found an empty string; legal: strings of at least one sign"
        for key in self.file_keys:
            yield from missing(key, getattr(self, key))
        if self.held_out == 0 and self.test_data is None and from_file:
            yield (f"task.held_out={self.held_out:g}: found no question to evaluate on; legal: "
                   "above 0, or task.test_data=<file>")


@dataclass
class QaKeys(QuestionKeys):
    """Multiple-choice questions from a file."""

    name: str = option("qa", "name of the task", legal=("qa",))
    answer: str = option("generated", "how a question is answered: by a letter in the written "
                         "text, by the most likely letter after the thought, or by the most "
                         "likely text of an option after it",
                         legal=("generated", "letter", "cloze"))
    score_per: str = option("byte", "task.answer=cloze: the log-likelihood of an option is divided "
                            "by the bytes (UTF-8) or the characters of its own text, without the "
                            "space before it, or by nothing; lm-evaluation-harness has characters "
                            "in acc_norm and nothing in acc", legal=("byte", "character", "none"))


class Encoded(NamedTuple):
    """Tokens of a question."""

    prompt: array[int]
    bridge: array[int]
    options: list[array[int]]
    sizes: list[int]


@task("qa", keys=QaKeys)
class Qa(Task):
    """Multiple-choice questions, some of which are held out.

    These are `task.test_data`, and all of `task.data` is trained on; else the rows whose split is
    test, val or validation; else (no row has such a split, or all have) a hash of the id and
    `task.seed` decides, so that a question is on the same side in all languages.
    Training and test questions are numbered in one list, `Problems.index`.
    """

    policy_kind = "choice"
    experiment, variants = "star_smollm2", ("think",)
    requires = frozenset({"hf_model"})
    offers = frozenset({"questions", "answers", "options", "hints"})
    from_files = True  # questions need `task.data`

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.from_files = vars(cls).get("from_files", cls.data is Qa.data)

    def __init__(self, config: Any, vocabulary: TextVocabulary | None,
                 questions: list[Question] | None = None, thinks: bool = True) -> None:
        """vocabulary: None for a table of the questions. questions: held-out ones in place of those
        that `config` names, which are then read for worked examples alone. thinks: a thought may
        come between prompt and bridge; else all of prompt, bridge and option is one text.
        """
        self.thinks, self.config = thinks, config
        if vocabulary is not None:
            self.vocabulary = vocabulary.stopped_by(_stops(config, vocabulary))
            self._continued = lru_cache(1000)(vocabulary.continued)
        own = prompts.PREAMBLES[self.way]
        self.preamble = own if config.preamble is None else config.preamble
        trained, held_out = self._split() if questions is None or config.shots else ([], [])
        if questions is not None:
            held_out, config = questions, replace(config, test_questions=None)
        self.shots = self._examples(trained, held_out)
        train = self._some(trained, config.train_questions)
        test = self._some(held_out, config.test_questions)
        self.epoch_size = len(train)
        self.remarks = leaked([*(("train", self._words(one)) for one in train),
                               *(("test", self._words(one)) for one in test)],
                              config.data, config.test_data)
        self.list = [*train, *test]
        self._encoded: list[Encoded | None] = [None] * len(self.list)
        self._test: Problems | None = None

    # --- the task -------------------------------------------------------------------------------

    def sample(self, count: int, generator: torch.Generator) -> Problems:
        """Up to `count` training questions, none twice; `epoch_size` or more is all of them.

        In a new order where `task.shuffle`, else in that of the file; fewer are a random part.
        """
        rows = torch.randperm(self.epoch_size, generator=generator)[:count]
        return self.encode((rows if self.config.shuffle else rows.sort().values).tolist())

    def test(self) -> Problems:
        """Up to `test_questions` held-out questions, the same ones for the same `task.seed`."""
        if self._test is None:
            self._test = self.encode(range(self.epoch_size, len(self.list)))
        return self._test

    def problems(self) -> list[tuple[str, Problem]]:
        """All questions of the task, in columns that it reads."""
        rows = self._rows(self.list)
        return [("train" if i < self.epoch_size else "test", row) for i, row in enumerate(rows)]

    def _rows(self, questions: list[Question]) -> list[Problem]:
        width = max(len(question.choices) for question in questions)
        return [prompts.as_row(question, width) for question in questions]

    def questions(self, problems: Problems) -> list[Question]:
        """The questions (P) of problems."""
        assert problems.index is not None
        return [self.list[i] for i in problems.index.tolist()]

    def hinted(self, problems: Problems) -> Problems:
        """The same problems with the right answer in their prompts."""
        tokens = [self._prompt(question, hint=True) for question in self.questions(problems)]
        return replace(problems, question=padded(tokens, problems.pad, left=True).to(
            problems.question.device))

    # --- answers --------------------------------------------------------------------------------

    @property
    def way(self) -> str:
        """How a question is answered, in the words of `questions.PREAMBLES`."""
        return self.config.answer

    def judge(self, problems: Problems, texts: list[str], cut: list[bool]) -> Tensor:
        """(B, 2): how right each text's answer is (1: right), and which option it names, -1 where
        it is none, -2 where several.

        B is P times the number of texts of each problem, which stand next to each other. cut:
        whether a text was cut at its length limit.
        """
        return letters_of(problems, texts, cut)

    def said(self, question: Question, number: int, text: str, cut: bool) -> str:
        """The answer of a text, which `judge` gives this number, as tables show it; "" for none."""
        return prompts.LETTERS[number] if number >= 0 else ""

    def gold(self, question: Question) -> str:
        """The right answer, as tables show it."""
        return question.letter

    def chance(self, problems: Problems) -> float:
        """The accuracy of guessing."""
        return float((1 / problems.option_mask.sum(1)).mean())

    @classmethod
    def typed(cls, text: str) -> Question:
        """A question that is typed. Raises `UserError` where it is none."""
        return prompts.typed_question(text)

    # --- tokens ---------------------------------------------------------------------------------

    @property
    def question_length(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(self._tokens(i).prompt) for i in range(len(self.list)))

    @property
    def answer_length(self) -> int:
        """Tokens of the longest bridge with its longest option."""
        return max(len(tokens.bridge) + max(map(len, tokens.options))
                   for tokens in map(self._tokens, range(len(self.list))))

    def must_fit(self, limit: int, tokens: int, model: str, train: bool = True,
                 hint: bool = False) -> None:
        """Raise `UserError` where the longest prompt, a thought of so many tokens and an option are
        together longer than `limit`. model: which one it is, and what it reads, in words. train,
        hint: whether training questions, and prompts with a hint, are asked.
        """
        def count(i: int) -> tuple[int, int]:
            found = self._tokens(i)
            prompt = len(self._prompt(self.list[i], hint) if hint else found.prompt)
            return prompt, len(found.bridge) + max(map(len, found.options))

        empty = len(self.vocabulary.prompt([(role, "") for role, _ in self._turns(self.list[0])]))
        rows = range(0 if train else self.epoch_size, len(self.list))
        asked = ((one, [*(text for _, text in self._turns(one, hint)), self.bridge(one)],
                  partial(count, i)) for i, one in ((i, self.list[i]) for i in rows))
        prompt, answer, name = prompts.longest(asked, self.way, limit - tokens - empty)
        if prompt + answer + tokens > limit:
            found = f"found a prompt of {prompt} tokens and {answer} of its answer ({name})"
            room = limit - prompt - answer
            raise UserError(
                f"thinker.tokens={tokens}: {found}, with {model}; legal: at most {room}"
                if room > 0 and tokens else f"task.data={self.config.data}: {found}, with {model}; "
                "legal: shorter questions or fewer task.shots, or a model that reads more")

    def encode(self, index: Sequence[int]) -> Problems:
        """Problems of the questions with these numbers."""
        pad, tokens = self.vocabulary.pad, [self._tokens(i) for i in index]
        right = [self.list[i].answer for i in index]
        count = max((len(one.options) for one in tokens), default=0)
        options = [(*one.options, *[array("l")] * (count - len(one.options))) for one in tokens]
        flat = padded([option for row in options for option in row], pad)
        return Problems(
            question=padded([one.prompt for one in tokens], pad, left=True),
            answer=padded([one.options[i] for one, i in zip(tokens, right, strict=True)], pad),
            thought=None, pad=pad, label=torch.tensor(right, dtype=torch.long), padded=True,
            options=flat.view(len(tokens), count, -1),
            option_sizes=padded([one.sizes for one in tokens], 1, count),
            answer_prefix=padded([one.bridge for one in tokens], pad, left=True),
            index=torch.tensor(list(index), dtype=torch.long))

    def _tokens(self, i: int) -> Encoded:
        """Tokens of a question, computed once."""
        encoded = self._encoded[i]
        if encoded is None:
            question, unit = self.list[i], getattr(self.config, "score_per", "none")
            bridge = self.bridge(question)
            options = prompts.options(question, self.way)
            sizes = [prompts.size_of(choice, unit) for choice in question.choices]
            if self.thinks or self.config.answer == "generated":
                prompt = self._prompt(question)
                pairs = [self._continued(bridge, option) for option in options]
                context, rest = pairs[0][0], [tokens for _, tokens in pairs]
            else:  # the prefix is the last token of what precedes the options
                whole = self._prompt(question, reply=bridge)
                prompt, context = whole[:-1], whole[-1:]
                rest = [self._prompt(question, reply=bridge + option)[len(whole):]
                        for option in options]
            encoded = self._encoded[i] = Encoded(
                prompt, array("l", context), [array("l", tokens) for tokens in rest], sizes)
        return encoded

    def bridge(self, question: Question) -> str:
        """The text between the thought and an option."""
        return prompts.bridge(question, self.way)

    def _turns(self, question: Question, hint: bool = False) -> prompts.Turns:
        others = [one for one in self.shots if not prompts.same(one, question)]
        return prompts.turns(question, self.preamble, others[:self.config.shots],
                             self.way, hint)

    def _prompt(self, question: Question, hint: bool = False, reply: str = "") -> array[int]:
        return array("l", self.vocabulary.prompt(self._turns(question, hint), reply))

    # --- which questions ------------------------------------------------------------------------

    @classmethod
    def check_files(cls, keys: Any, thoughts: int = 0) -> None:
        if keys.data is not None and "data" in keys.file_keys:  # else from the hub
            cls.listed(keys)

    @classmethod
    def listed(cls, config: Any) -> list[Question]:
        """The questions of a task in its order, without their tokens. Raises `UserError` where its
        files cannot be used.
        """
        task = cls.__new__(cls)
        task.config = config
        train, test = task._split()
        task._examples(train, test)
        return task._some(train, config.train_questions) + task._some(test, config.test_questions)

    def data(self) -> list[Question]:
        """The questions of `task.data`."""
        return self.read(Path(self.config.data or ""))

    def read(self, path: Path) -> list[Question]:
        """The questions of a file. Raises `UserError` that names the line of the first defect."""
        return read_questions(path)

    def _split(self) -> tuple[list[Question], list[Question]]:
        """Questions to train on, and held-out ones. Raises `UserError` where one side is empty."""
        config = self.config
        data = self.data()
        test = self.read(Path(config.test_data)) if config.test_data else []
        subjects = {one.subject for one in [*data, *test]} - {""}
        for subject in config.subjects:
            if subject not in subjects:
                raise UserError(f"task.subjects: found {subject!r}"
                                f"{closest(subject, sorted(subjects))}; legal: "
                                f"{', '.join(sorted(subjects)) or 'none, as no row has one'}")
        data, test = self._of_subjects(data), self._of_subjects(test)
        if not config.test_data:
            held_out = [one.split in HELD_OUT for one in data]
            if len(set(held_out)) < 2:
                held_out = [self._share(self._key(one), "split") < config.held_out for one in data]
            test = [one for one, out in zip(data, held_out, strict=True) if out]
            data = [one for one, out in zip(data, held_out, strict=True) if not out]
        for side, questions in (("train on", data), ("evaluate on", test)):
            if not questions and (side == "evaluate on" or config.held_out < 1):
                raise UserError(f"task.data={config.data or 'null'}: found no question to {side}; "
                                "legal: more questions or subjects, another task.held_out or "
                                "task.seed, or task.test_data=<file>")
        return data, test

    def _of_subjects(self, questions: list[Question]) -> list[Question]:
        wanted = set(self.config.subjects)
        return [one for one in questions if not wanted or one.subject in wanted]

    def _words(self, question: Question) -> tuple[str, ...]:
        """What must not be on both sides of the split."""
        return question.words

    def _key(self, question: Question) -> str:
        """What decides whether a question is held out."""
        return question.id

    def _share(self, key: str, use: str) -> float:
        """A number from 0 to 1 for an id, the same in every run with the same `task.seed`."""
        return hashed_share(f"{self.config.seed}/{use}/{key}")

    def _some(self, questions: list[Question], count: int | None) -> list[Question]:
        """Up to `count` of the questions, in their order, chosen by a hash of their ids."""
        if count is None or count >= len(questions):
            return questions
        order = sorted(range(len(questions)), key=lambda i: self._share(questions[i].id, "some"))
        return [questions[i] for i in sorted(order[:count])]

    def _examples(self, train: list[Question], test: list[Question]) -> list[Question]:
        """`task.shots` worked examples and one to spare, none of them held out.

        A question is not an example of itself; then the one to spare takes its place.
        """
        config = self.config
        if not config.shots:
            return []
        pool = self.read(Path(config.shots_data)) if config.shots_data else train
        out, own = prompts.signs(test), prompts.signs(train)
        pool.sort(key=lambda one: self._share(one.id, "shots"))
        chosen = prompts.different(pool, out, config.shots + 1)
        if len(chosen) < config.shots + bool(own & prompts.signs(chosen[:config.shots])):
            raise UserError(f"task.shots={config.shots}: found {len(chosen)} worked examples that "
                            "are not held out, and a question is none of itself; legal: fewer "
                            "shots, or another task.shots_data")
        return chosen


def _stops(config: QuestionKeys, vocabulary: TextVocabulary) -> Sequence[str]:
    """The strings before which a written text ends."""
    asks_itself = config.answer == "generated" and not vocabulary.chat
    return [prompts.NEXT] * asks_itself if config.stop is None else config.stop
