"""What stands around a thought: the prompt in front of it, the bridge and the options behind it.

How a question is answered (`task.answer`):

- generated: options in the prompt; the thought says "The answer is (B)." itself. No bridge; the
  options are these sentences.
- letter: options in the prompt; bridge "Answer:", the options are " A", " B", ...
- cloze: options not shown; the bridge repeats the question behind the thought, the options are
  their own text.
"""

from __future__ import annotations

from collections.abc import Sequence

from ponder.tasks.choice.questions import Question

Turns = list[tuple[str, str]]


def turns(question: Question, preamble: str, examples: Sequence[Question], answer: str,
          hint: bool = False) -> Turns:
    """(role, text) of a dialogue that ends with the question: worked examples stand in front.

    The preamble stands in front of all. hint says the right answer as well, for thoughts that lead
    to it (the rationalisation of STaR).
    """
    asked = [text for example in examples
             for text in (("user", shown(example, answer)), ("assistant", worked(example, answer)))]
    last = shown(question, answer) + (f"\n{hinted(question, answer)}" if hint else "")
    (role, first), *rest = [*asked, ("user", last)]
    return [(role, f"{preamble}\n\n{first}" if preamble else first), *rest]


def shown(question: Question, answer: str) -> str:
    """The question, with a line for each option unless they are to be written out."""
    lines = [f"Question: {question.question}"]
    if answer != "cloze":
        lines += [f"{letter}. {choice}" for letter, choice in
                  zip(question.letters, question.choices, strict=True)]
    return "\n".join(lines)


def hinted(question: Question, answer: str) -> str:
    """The line that says the right answer."""
    right = question.choices[question.answer]
    return (f"(Hint: the right answer is: {right})" if answer == "cloze"
            else f"(Hint: the right answer is ({question.letter}) {right})")


def worked(question: Question, answer: str) -> str:
    """What an assistant writes for an example: the rationale if there is one, and the answer."""
    end = bridge(question, answer) + options(question, answer)[question.answer]
    return ((question.rationale or "") + end).strip()


def bridge(question: Question, answer: str) -> str:
    """What stands between the thought and an option."""
    return {"generated": "", "letter": "\nAnswer:",
            "cloze": f"\nQuestion: {question.question}\nAnswer:"}[answer]


def options(question: Question, answer: str) -> list[str]:
    """What each option looks like behind the bridge."""
    if answer == "cloze":
        return [f" {choice}" for choice in question.choices]
    return [f" The answer is ({letter})." if answer == "generated" else f" {letter}"
            for letter in question.letters]
