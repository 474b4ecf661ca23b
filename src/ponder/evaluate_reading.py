"""Evaluation on held-out passages: how well is the next token foreseen?"""

from __future__ import annotations

import math

import torch

from ponder.evaluate import Evaluation
from ponder.models.reader import Reader
from ponder.types import Problems

ROWS_AT_ONCE = 64
SHOWN = 200  # passages of which the table has a row


@torch.no_grad()
def evaluate_reading(policy: Reader, problems: Problems, bytes_per_token: float) -> Evaluation:
    """val/loss in nats a token and its standard error over passages, bits per byte of text, and
    accuracy: the share of places whose next token was the likeliest one.
    """
    was_training = policy.training
    policy.eval()
    losses, right = [], []
    for start in range(0, len(problems), ROWS_AT_ONCE):
        part = problems[slice(start, start + ROWS_AT_ONCE)]
        logits = policy.next_logits(part)
        logprobs = logits.log_softmax(-1).gather(-1, part.answer[..., None])[..., 0]
        losses.append(-logprobs)
        right.append(logits.argmax(-1))
    loss, guess = torch.cat(losses), torch.cat(right)
    correct = guess == problems.answer
    nats, accuracy = float(loss.double().mean()), float(correct.double().mean())
    passages = loss.double().mean(1)
    spread = float(passages.std() / math.sqrt(len(passages))) if len(passages) > 1 else 0.0
    metrics = {"accuracy": accuracy, "accuracy_stderr": (
        accuracy * (1 - accuracy) / correct.numel()) ** 0.5,
        "val/loss": nats, "val/loss_stderr": spread,
        "val/bits_per_byte": nats / math.log(2) / max(bytes_per_token, 1e-9)}
    text = policy.vocabulary.text
    rows = [{"id": number, "question": text(question), "thought": "", "answer": text([said]),
             "gold": text([gold]), "correct": int(said == gold), "loss": round(value, 4)}
            for number, (question, said, gold, value) in enumerate(zip(
                problems.question[:SHOWN].tolist(), guess[:SHOWN, -1].tolist(),
                problems.answer[:SHOWN, -1].tolist(), passages[:SHOWN].tolist(), strict=True))]
    policy.train(was_training)
    return Evaluation(metrics, {}, rows)
