"""Every task by its name."""

from __future__ import annotations

from ponder.tasks.choice.mmlu import Mmlu
from ponder.tasks.choice.qa import Qa
from ponder.tasks.text.corpus import Corpus
from ponder.tasks.text.passages import Text
from ponder.tasks.toy.add import Add
from ponder.tasks.toy.addition import Addition

TASKS: dict[str, type] = {"add": Add, "addition": Addition, "qa": Qa, "mmlu": Mmlu,
                         "text": Text, "corpus": Corpus}
