"""Texts that are continued: prompts, who may write what, what is refused, whole runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from ponder.cli.shorthand import rewrite
from ponder.config.errors import UserError
from ponder.config.resolve import read
from ponder.config.spine import CONF, register
from ponder.core.math import Sampling
from ponder.core.metrics import known
from ponder.core.types import Problems
from ponder.models.gpt2.model import Init, Shape, Transformer
from ponder.models.policies.base import Rules
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.rollouts.sampler import sample
from ponder.tasks.text.passages import Corpus, CorpusKeys
from ponder.tokenizers.pieces import Characters, PieceVocabulary
from support.processes import run_processes
from support.runs import lines, summary
from support.small import Door, generator
from support.texts import TEXT

WORDS = PieceVocabulary(Characters("ab"), 3)  # pad, end, a, b, the unknown, </think>, <t0> ... <t2>


def author_of(writes: str, stops: bool, tokens: int = 4) -> ContinuationPolicy:
    torch.manual_seed(1)
    net = Transformer(Shape(len(WORDS), 12, 16, 1, 2), Init(*[0.5] * 5))
    return ContinuationPolicy(net, None, WORDS, Rules(tokens, stops, writes=writes))


# --- prompts ------------------------------------------------------------------------------------

def test_prompts_are_passages_of_either_side(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    task = Corpus(CorpusKeys(data="text.txt", length=9, seed=0, test_passages=5), 0)
    test, train = task.test(), task.sample(50, generator())
    cut = int(len(TEXT) * 0.9)
    begins = ["".join(TEXT[cut + place:cut + place + 9]) for place in np.arange(5) * 20 // 5 * 9]
    assert [task.vocabulary.text(row) for row in test.question.tolist()] == begins
    assert all(task.vocabulary.text(row) in TEXT[:cut] + "<end>" for row in train.question.tolist())
    assert test.answer.shape == (5, 0) and task.answer_length == 0


@pytest.mark.parametrize(("prompt", "ids"), [("ab", [2, 3]), ("", [1])])
def test_one_prompt_again_and_again(prompt: str, ids: list[int], tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text(json.dumps(WORDS.pieces.state()))
    task = Corpus(CorpusKeys(prompt=prompt, seed=0, test_passages=3), 0, str(tmp_path))
    assert task.sample(2, generator()).question.tolist() == [ids] * 2
    assert task.test().question.tolist() == [ids] * 3 and task.question_length == len(ids)


def test_a_prompt_of_other_characters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text(json.dumps(WORDS.pieces.state()))
    with pytest.raises(UserError, match=r"task\.prompt=xa: found"):
        Corpus(CorpusKeys(prompt="xa", seed=0), 0, str(tmp_path))


# --- who writes what ----------------------------------------------------------------------------

@pytest.mark.parametrize(("writes", "stops", "allowed"), [
    ("text", False, {2, 3, 4}), ("text", True, {1, 2, 3, 4}),
    ("both", False, {2, 3, 4, 5, 6, 7, 8}), ("both", True, {1, 2, 3, 4, 5, 6, 7, 8})])
def test_what_may_be_written(writes: str, stops: bool, allowed: set[int]) -> None:
    policy = author_of(writes, stops)
    assert set(range(len(WORDS))[policy.allowed]) == allowed
    task_prompts = torch.tensor([[2, 3]]).expand(200, -1)
    problems = Problems(task_prompts, task_prompts[:, :0], None, 0)
    rollouts = sample(policy, problems, 4, Sampling(), generator())
    assert set(rollouts.thought[:, :-1].unique().tolist()) - {0} == allowed
    ends = (rollouts.thought == 1).sum(1)
    assert (ends == 1).all()  # every text ends once, by choice or because there is no room
    assert stops or (rollouts.lengths == 4).all()
    scores = policy.score(rollouts, Sampling())
    assert torch.allclose(scores.logprobs, rollouts.logprobs, atol=1e-5)
    assert (scores.answer == 0).all() and not scores.answer.requires_grad


def test_an_empty_answer_costs_no_pass(monkeypatch) -> None:
    policy = author_of("text", False)
    problems = Problems(torch.tensor([[2]]), torch.empty(1, 0, dtype=torch.long), None, 0)
    monkeypatch.setattr(Transformer, "forward", None)
    logprob, right = policy.answer(problems, torch.tensor([[2, 3, 3, 3, 1]]))
    assert logprob.tolist() == [0] and right.tolist() == [True]


# --- what is refused ----------------------------------------------------------------------------

GOOD = ["task=corpus", "variant=[think]", "task.data=text.txt", "reward=whitespace",
        "rollout=sample", "strategy=ppo"]
REFUSED = [
    ("variant=[]", "thinker.tokens=0: found task=corpus"),
    ("variant=[think,blind]", "variant=blind: found task=corpus"),
    ("rollout=search", "variant=search: found task=corpus"),
    ("thinker.writes=thoughts", "thinker.writes=thoughts: found task=corpus, which asks for a text;"
     " legal: text, both"),
    ("strategy=dpo", "strategy=dpo: found task=corpus"),
    ("strategy=exact", "strategy=exact: found task=corpus"),
    ("reward=exact_match", "reward=exact_match: found task=corpus"),
    ("reward=wanted", "reward=wanted: found task.wanted="),
    ("reward=words", "reward=words: found task.words="),
    ("task.pattern='[a'", "task.pattern=[a: found no regular expression"),
    ("task.words=[x.txt]", "task.words=[x.txt]: found no such file"),
    ("task.words=[The]", "task.words=[The]: found no word in lower case"),
    ("task.words=['Élan']", "task.words=[Élan]: found no word in lower case"),
    ("action=problems task.data=null task.prompt=a", "task.data=null: found model.name=null"),
    ("task.words=[/tmp]", "task.words=[/tmp]: found no word in lower case"),
    ("trainer.rationalise=true", "trainer.rationalise=true: found task=corpus"),
    ("reward=plausibility", "reward=plausibility: found model.ref_name=null; legal: with"),
    ("task.data=null", "task.data=null: found no text; legal:"),
    ("task.data=null task.prompt=a", "task.data=null: found model.name=null"),
]


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    register()

    def refused(*words: str) -> str:
        said = {word.partition("=")[0]: word for word in words}
        with initialize_config_dir(str(CONF), version_base="1.3"):
            try:
                read(compose("config", overrides=rewrite(list(said.values()), CONF)))
            except UserError as error:
                return str(error)
        return ""
    return refused


@pytest.mark.slow
def test_a_corpus_composes(refusal) -> None:
    assert refusal(*GOOD) == ""
    assert refusal(*GOOD, "task.prompt=''", "model.name=null") == ""


@pytest.mark.slow
@pytest.mark.parametrize(("words", "line"), REFUSED)
def test_what_means_nothing_gets_one_line(words: str, line: str, refusal) -> None:
    found = refusal(*GOOD, *words.split())
    assert found.startswith(line) and "\n" not in found


@pytest.mark.slow
def test_rewards_of_texts_are_for_texts(refusal) -> None:
    assert refusal("think=true", "reward=whitespace").startswith(
        "reward=whitespace: found task=add, but it needs a text to continue; legal: with "
        "task=corpus")
    assert refusal("think=true", "thinker.writes=both").startswith(
        "thinker.writes=both: found task=add")


# --- whole runs ---------------------------------------------------------------------------------

PPO = ["experiment=ppo_corpus"]
FREE = ["task=corpus", "variant=[think,fixed]", "rollout=sample", "reward=wanted",
        "rollout.samples=4"]
SMALL = ["model.name=normal/checkpoint_2", "task.data=text.txt", "task.wanted=e", "task.length=4",
         "task.thought_length=5", "task.test_passages=8", "trainer.train_batch_size=4",
         "trainer.gen_batch_size=8", "trainer.threads=1", "trainer.save_every_n_steps=4",
         "trainer.log_every_n_steps=1", "trainer.max_steps=6", "trainer.val_every_n_steps=100",
         "hydra.run.dir=run"]


@pytest.fixture
def run(door: Door) -> Door:
    """Words -> a small run that begins with a normal model of two steps."""
    Path("text.txt").write_text(TEXT)
    assert door("experiment=normal", "task.data=text.txt", "task.length=8", "model.d_model=8",
                "model.layers=1", "model.heads=2", "trainer.max_steps=2", "trainer.threads=1",
                "task.test_passages=4", "hydra.run.dir=normal")[0] == 0
    return lambda *words: door(*{word.partition("=")[0]: word for word in (
        *SMALL, *words)}.values())  # each key as said last


@pytest.mark.parametrize(("words", "said"), [
    (["reward=words", "task.words=[none.txt]"], "task.words=[none.txt]: found no words in it"),
    (["task.wanted=Q"], "task.wanted=Q: found no character that the model can write; legal: "),
    (["strategy=grpo"], ", or strategy=ppo, for which the file is made"),
])
def test_what_can_never_be_earned_is_refused(words: list[str], said: str, run: Door) -> None:
    Path("none.txt").write_text("\n")
    code, _, err = run(*PPO, *words)
    assert code == 2 and said in err and "Traceback" not in err, err


def test_a_run_leaves_prompts_and_continuations(run: Door) -> None:
    code, _, err = run(*PPO)
    assert (code, err) == (0, "")
    assert all(known(name) for line in lines() for name in line)
    with Path("run/val_6/generated.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(row["question"] in TEXT for row in rows)
    assert all(len(row["thought"]) == 5 for row in rows)
    share = [row["thought"].count("e") / 5 for row in rows]
    assert [float(row["reward"]) for row in rows] == pytest.approx(share)
    metrics = summary()["metrics"]
    assert metrics["val/reward"] == pytest.approx(sum(share) / 8)
    assert summary()["accuracy"] == sum(value == 1 for value in share) / 8
    first = lines()[0]
    assert first["step"] == 0 and first["val/kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["val/kl"] > 0
    report = Path("run/report.html").read_text()
    assert all(name in report for name in ("Value loss", "KL to the reference", "val/reward"))
    code, _, err = run(*PPO, "action=evaluate", "model.name=run/checkpoint_1",
                       "hydra.run.dir=again")
    assert (code, err) == (0, "") and "val/kl" not in summary("again")["metrics"]
    assert summary("again")["metrics"]["val/reward"] == metrics["val/reward"]


LEARNERS = [
    [*FREE, "strategy=reinforce", "strategy.kl=0.1"], [*FREE, "strategy=rloo"],
    [*FREE, "strategy=grpo", "strategy.kl=0.1"], [*PPO, "strategy.value=separate"],
    [*FREE, "strategy=star"],
    [*PPO, "variant=[think]", "rollout.epsilon=linear(0.5,0,4)", "rollout.temperature=1.5"],
    [*PPO, "task.interim=true", "strategy.discount=0.9", "strategy.entropy=0.01"],
    ["experiment=rollout_think", "model.ref_name=normal/checkpoint_2", "variant=[think]"],
    [*PPO, "task.prompt='the '", "reward=[wanted,length]"]]


@pytest.mark.parametrize("words", [
    pytest.param(words, marks=pytest.mark.slow if number % 4 else [], id=" ".join(words))
    for number, words in enumerate(LEARNERS)])
def test_everything_that_learns_from_thoughts_learns_from_texts(words: list[str],
                                                                run: Door) -> None:
    code, _, err = run(*words)
    assert (code, err) == (0, "")
    assert summary()["steps"] == 6
    assert all(known(name) for line in lines() for name in line)


@pytest.mark.parametrize("words", ["", pytest.param("strategy.value=separate thinker.writes=both",
                                                    marks=pytest.mark.slow)])
def test_a_run_cut_off_ends_with_the_same_weights(words: str, run: Door) -> None:
    """Its last checkpoint and its end are taken away: it goes on in the middle of a round."""
    more = [*PPO, "trainer.max_steps=10", *words.split()]
    assert run(*more)[0] == 0
    shutil.copytree("run", "whole")
    for path in Path("run").glob("checkpoint_*/manifest.json"):
        if json.loads(path.read_text())["step"] == 10:
            shutil.rmtree(path.parent)
    Path("run/summary.json").unlink()
    code, out, err = run(*more)
    assert (code, err) == (0, "") and "going on from step 8" in out
    assert summary()["weights_sha256"] == summary("whole")["weights_sha256"]
    assert [line["step"] for line in lines()] == [line["step"] for line in lines("whole")]
    last = [{name: value for name, value in line.items() if "second" not in name}
            for line in (lines()[-1], lines("whole")[-1])]
    assert last[0] == last[1]


@pytest.mark.slow
def test_two_processes_write_and_learn_what_one_does(run: Door) -> None:
    here = Path.cwd()
    words = [*(word for word in SMALL if "run.dir" not in word), *PPO, "trainer.device=cpu",
             f"model.name={here}/normal/checkpoint_2", f"task.data={here}/text.txt"]
    said = list({word.partition("=")[0]: word for word in words}.values())
    (one, last), (two, other) = (run_processes(here / name / "run", count, *said)
                                 for name, count in (("alone", 1), ("both", 2)))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for first, second in zip(one, two, strict=True):
        for name in ("loss", "value_loss", "kl", "reward", "val/reward", "val/kl"):
            assert first.get(name, 0) == pytest.approx(second.get(name, 0), abs=1e-5)
    assert last["accuracy"] == other["accuracy"]
