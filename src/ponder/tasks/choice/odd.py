"""Questions about even and odd numbers."""

from ponder import option, task
from ponder.tasks.choice.qa import Qa
from ponder.tasks.choice.questions import Question


@task("odd")
class Odd(Qa):
    """Is a number odd or even?"""
    numbers: int = option(100, "questions are about the numbers below this", low=10)

    def data(self) -> list[Question]:
        return [Question(id=str(n), question=f"Is {n} even or odd?", choices=("even", "odd"),
                         answer=n % 2) for n in range(self.config.numbers)]
