"""How large things are on n GPUs: what a step sends, what a GPU holds. Computed, nothing is run.

    python bench/sizes.py [--write]

The formulas are those of docs/clusters.md, whose tables `--write` fills in; `bench/network.py`
holds those of the messages against what two processes really send.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from paths import ROOT, fill

PAGE = ROOT / "docs" / "clusters.md"
NVLINK, NIC = 450e9, 50e9  # bytes a second, one way, nominal: NVLink 4; InfiniBand of 400 Gb/s
NODE = 8  # GPUs in a machine
HBM = 3.35e12  # bytes a second that an H100 reads of its memory, nominal


@dataclass(frozen=True)
class Case:
    """A model and how it is trained. kv is layers times key-value heads times their width; question
    and tokens are lengths, questions and samples those of a round, micro the questions of a
    micro-batch; kept says how many bytes a token, layer and unit of width are kept for the backward
    pass, again how many of the block that is computed once more.
    """

    name: str
    parameters: int
    trained: int
    bytes: int  # of a weight
    trained_bytes: int  # of a weight that is trained, its gradient and each of its two moments
    layers: int
    width: int
    kv: int
    vocabulary: int
    question: int
    tokens: int
    questions: int
    samples: int
    micro: int
    kept: int
    again: int
    text: bool = True
    at_once: int = 256

    @property
    def rows(self) -> int:
        return self.questions * self.samples


CASES = [
    Case("tiny transformer", 212_736, 212_736, 4, 4, 2, 64, 2 * 64, 120, 6, 2, 256, 8, 256, 72, 0,
         False),
    Case("SmolLM2-135M, LoRA 16", 139_399_488, 4_884_480, 4, 4, 30, 576, 30 * 3 * 64, 49_152, 150,
         128, 160, 8, 4, 49, 0),
    Case("Llama-3.1-8B, LoRA 16, bfloat16", 8_072_204_288, 41_943_040, 2, 4, 32, 4096,
         32 * 8 * 128, 128_256, 200, 256, 1024, 8, 4, 2, 49),
    Case("Llama-3.1-8B, full, bfloat16", 8_030_261_248, 8_030_261_248, 2, 2, 32, 4096,
         32 * 8 * 128, 128_256, 200, 256, 1024, 8, 4, 2, 49),
    Case("Llama-3.1-8B, full, float32", 8_030_261_248, 8_030_261_248, 4, 4, 32, 4096,
         32 * 8 * 128, 128_256, 200, 256, 1024, 8, 4, 2, 49)]


def gathered(rows: int, tokens: int, text: bool) -> int:
    """Bytes of the rollouts of a round: ids (8) of tokens and their end, log-probabilities (4), and
    what the judge says of a row: three numbers (4) of texts, else two (8)."""
    return rows * (8 * (tokens + 1) + 4 * tokens + (12 if text else 16))


def gradients(trained: int, size: int) -> int:
    """Bytes of the gradients of a step, which are one message."""
    return trained * size


def ring(processes: int) -> float:
    """How many times its bytes a process sends of a message that all add up."""
    return 2 * (processes - 1) / processes


def memory(case: Case) -> dict[str, float]:
    """Bytes on each GPU, whatever their number. The cache holds whole rows from their first token,
    and each question once for its samples; logits are made 512 at a time, in three copies."""
    cache = 2 * case.kv * 2 * case.at_once * (case.tokens + case.question / case.samples)
    tokens = case.micro * (case.question + case.samples * case.tokens)
    return {"weights": case.parameters * case.bytes,
            "gradients": gradients(case.trained, case.trained_bytes),
            "the message": gradients(case.trained, case.trained_bytes),
            "AdamW": 2 * case.trained * case.trained_bytes,
            "cache": cache if case.text else 0,
            "activations": tokens * case.width * (case.layers * case.kept + case.again),
            "logits": 3 * 512 * case.vocabulary * 4 if case.text else 0}


def most(case: Case) -> float:
    """The most of it that is there at a time: weights and moments, and the largest of what writing,
    the backward pass and the message need."""
    parts = memory(case)
    return parts["weights"] + parts["AdamW"] + max(
        parts["cache"], parts["gradients"] + parts["the message"],
        parts["gradients"] + parts["activations"] + parts["logits"])


def size(count: float) -> str:
    """1500000 -> 1.5 MB"""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count:.0f} B"


def span(seconds: float) -> str:
    """0.0015 -> 1.5 ms"""
    unit, one = next((pair for pair in (("s", 1.0), ("ms", 1e-3)) if seconds >= pair[1]),
                     ("µs", 1e-6))
    return f"{float(f'{seconds / one:.2g}'):g} {unit}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def of_messages() -> str:
    """What a step and a round send."""
    rows = []
    for case in CASES:
        whole = gradients(case.trained, case.trained_bytes)
        times = [whole * ring(NODE) / NVLINK, whole * ring(NODE**2) / (NIC * NODE),
                 whole * ring(NODE**2) / NIC]
        rows.append([case.name, size(whole), size(whole * ring(NODE)), span(times[0]),
                     size(whole * ring(NODE**2)), span(times[1]), span(times[2]),
                     f"{case.rows} x {case.tokens}",
                     size(gathered(case.rows, case.tokens, case.text))])
    return table(["", "gradients of a step", "sent by each of 8", "at least",
                  "sent by each of 64", "at least, a card a GPU", "at least, a card a machine",
                  "rows x tokens of a round", "rollouts of a round"], rows)


def of_memory() -> str:
    """What a GPU holds."""
    rows = [[case.name, *map(size, memory(case).values()), size(most(case)),
             span(memory(case)["weights"] / HBM)] for case in CASES]
    return table(["", *memory(CASES[0]), "most at a time", "a token, at least"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for name, text in (("messages", of_messages()), ("memory", of_memory())):
        print(text)
        if options.write:
            fill(PAGE, name, text)


if __name__ == "__main__":
    main()
