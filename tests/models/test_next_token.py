"""Text as a task: cut into tokens, learnt, thought about after its positions."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given as every
from hypothesis import settings
from hypothesis import strategies as st

import ponder.tasks.text.documents as cutting
import ponder.tasks.text.passages as packing
from ponder.config.errors import UserError
from ponder.config.players import SamplerConfig
from ponder.config.running import TrainerConfig
from ponder.core.math import GREEDY, Sampling, correlation
from ponder.core.types import Problems
from ponder.models.gpt2.model import Shape, Transformer
from ponder.models.gpt2.resized import resized
from ponder.models.policies.base import Rules
from ponder.models.policies.next_token import NextTokenPolicy, PositionPolicy
from ponder.rollouts.sampler import PositionSampler, all_positions, sample, think_at_positions
from ponder.strategies.star import SFT
from ponder.tasks.text.documents import TextKeys, split
from ponder.tasks.text.passages import Text
from ponder.tokenizers.pieces import Characters, Pieces, PieceVocabulary, Trie, pieces_of
from ponder.training.learner import Learner
from support.questions import WORDS
from support.texts import SENTENCE, network, thinker


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SCRATCH", tmp_path / "scratch")


def jsonl(path: Path, count: int) -> Path:
    path.write_text("\n".join(json.dumps({"text": f"{number}: {SENTENCE * 3}"})
                              for number in range(count)))
    return path


# --- documents and tokens -------------------------------------------------------------------------


def test_a_text_is_cut_once_and_is_there_again(tmp_path: Path) -> None:
    """Every document ends with end-of-text; train and test are the documents, and all of them."""
    config = TextKeys(data=str(jsonl(tmp_path / "x.jsonl", 50)), seed=0)
    found = packing.packed(config, None, 4)
    text = found.vocabulary.text
    train, test = (text(side.tolist()).split("<end>")[:-1] for side in (found.train, found.test))
    documents = [f"{number}: {SENTENCE * 3}" for number in range(50)]
    assert sorted(train + test) == sorted(documents) and 0 < len(test) < 25
    before = (tmp_path / "scratch").rglob("train.bin").__next__().stat().st_mtime_ns
    again = packing.packed(config, None, 4)
    assert (again.train == found.train).all()
    assert (tmp_path / "scratch").rglob("train.bin").__next__().stat().st_mtime_ns == before


def test_what_was_begun_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off in the middle of writing: the same bytes in the end."""
    config = TextKeys(data=str(jsonl(tmp_path / "x.jsonl", 60)), seed=0, workers=1)
    monkeypatch.setattr(cutting, "BATCH", 500)
    whole = packing.packed(config, None, 0)
    monkeypatch.setattr(packing, "SCRATCH", tmp_path / "other")
    cut = cutting._encode
    seen: list[int] = []

    def breaks(pieces: Pieces, batch: cutting.Batch) -> cutting.Cut:
        seen.append(len(batch.texts))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return cut(pieces, batch)

    monkeypatch.setattr(cutting, "_encode", breaks)
    with pytest.raises(KeyboardInterrupt):
        packing.packed(config, None, 0)
    folder = next((tmp_path / "other").iterdir())
    with (folder / "train.bin").open("ab") as file:
        file.write(b"half a batch")
    again = packing.packed(config, None, 0)
    assert (again.train == whole.train).all() and (again.test == whole.test).all()
    assert sum(seen[:4]) + sum(seen[5:]) == 60  # no document twice


@pytest.mark.parametrize("count", [3, 30])
def test_a_long_text_is_cut_in_parts(count: int, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """By several processes, broken off or not, few documents or many: the tokens are the same."""
    text = "".join(json.dumps({"text": f"{number}\n" + f"{SENTENCE}\n" * (9 if number % 2 else 1)})
                   + "\n" for number in range(count))
    (tmp_path / "x.jsonl").write_text(text)
    config = TextKeys(data=str(tmp_path / "x.jsonl"), seed=0, workers=1, held_out=0.3)
    whole = packing.packed(config, None, 0)
    monkeypatch.setattr(cutting, "BATCH", 120)
    cut, calls = cutting._encode, []

    def breaks(pieces: Pieces, batch: cutting.Batch) -> cutting.Cut:
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cut(pieces, batch)

    for number, changes in enumerate(({}, {"workers": 2}, {"breaks": True})):
        monkeypatch.setattr(packing, "SCRATCH", tmp_path / str(number))
        if changes.pop("breaks", False):
            monkeypatch.setattr(cutting, "_encode", breaks)
            with pytest.raises(KeyboardInterrupt):
                packing.packed(config, None, 0)
        found = packing.packed(replace(config, **changes), None, 0)
        assert found.train.tolist() == whole.train.tolist()
        assert found.test.tolist() == whole.test.tolist()
        assert found.progress == whole.progress
    assert any(batch.done is None for batch in calls)


def test_several_processes_cut_what_one_cuts(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "BATCH", 300)
    config = TextKeys(data=str(jsonl(tmp_path / "x.jsonl", 60)), tokens="trie", trie_size=300,
                      seed=0, workers=1)
    one = packing.packed(config, None, 0)
    monkeypatch.setattr(packing, "SCRATCH", tmp_path / "other")
    two = packing.packed(replace(config, workers=2), None, 0)
    assert (one.train == two.train).all() and (one.test == two.test).all()


def test_the_end_of_few_documents_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("0123456789" * 10)
    config = TextKeys(data=str(path), held_out=0.25, seed=0)
    assert list(split(config)) == [(0, False, ("0123456789" * 10)[:75]),
                                   (0, True, ("0123456789" * 10)[75:])]


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes is what a file of the same rows gives, also where a beginning is passed over."""
    import datasets

    path, asked = jsonl(tmp_path / "x.jsonl", 50), []
    real = datasets.load_dataset

    def load(name: str, subset: str | None, split: str, streaming: bool) -> object:
        asked.append((name, subset, split, streaming))
        return real("json", data_files=str(path), split=split, streaming=streaming,
                    cache_dir=str(tmp_path))

    monkeypatch.setattr(datasets, "load_dataset", load)
    config = TextKeys(data="owner/name", subset="sample-10BT", seed=0)
    local = TextKeys(data=str(path), seed=0)
    assert list(split(config)) == list(split(local))
    assert list(split(config, 30)) == list(split(local, 30))
    assert set(asked) == {("owner/name", "sample-10BT", "train", True)}
    found, same = packing.packed(config, None, 0), packing.packed(local, None, 0)
    assert found.train.tolist() == same.train.tolist()
    with pytest.raises(UserError, match=r"owner/name, row 1: found no text in task.column=words"):
        next(split(replace(config, column="words")))


def test_halves_of_characters_are_no_text(tmp_path: Path) -> None:
    """JSON may hold them; UTF-8, and what reads it, may not."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a\\ud83d b"}\n')
    assert "".join(text for _, _, text in split(TextKeys(data=str(path), seed=0))) == "a\ufffd b"


@pytest.mark.parametrize("workers", [1, 2])
def test_torn_characters_are_counted_also_where_the_text_is_there_again(
        workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "BATCH", 100)
    path = tmp_path / "x.jsonl"
    torn = '{"text": "a\\ud83d b \ufffd \\ud83d\\ude00"}\n'
    path.write_text(torn * 30 + '{"text": "a b"}\n' * 30)
    config = TextKeys(data=str(path), seed=0, workers=workers, length=4)
    for _ in range(2):
        assert Text(config).doubts == (
            f"task.data={path}: found 60 characters that are U+FFFD or half of one; they are "
            "learnt as U+FFFD",)
    path.write_text('{"text": "\\ud83d\\ude00 is whole"}\n' * 30)
    assert Text(config).doubts == ()


def test_another_tokenizer_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    """What it cut before is cut again, and a checkpoint that it no longer fits is refused."""
    data, name = jsonl(tmp_path / "x.jsonl", 30), tmp_path / "words"
    config = TextKeys(data=str(data), tokens="hf", tokenizer=str(name), seed=0)
    WORDS.tokenizer.save_pretrained(name)
    file = name / "tokenizer.json"
    told = json.loads(file.read_text())
    told["truncation"] = {"max_length": 16, "stride": 0, "strategy": "LongestFirst",
                          "direction": "Right"}  # as some are shipped; encoding sets it anew
    file.write_text(json.dumps(told))
    before = packing.packed(config, None, 0)
    state = before.vocabulary.pieces.state()
    assert pieces_of(state).state() == state == pieces_of(state).state()
    words = told["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(told))
    after = packing.packed(config, None, 0)
    assert after.vocabulary.text(after.train[:40].tolist()) == before.vocabulary.text(
        before.train[:40].tolist())
    assert after.train.tolist() != before.train.tolist()
    with pytest.raises(ValueError, match="has changed"):
        pieces_of(state)


def test_a_split_can_be_gone_on_with(tmp_path: Path) -> None:
    config = TextKeys(data=str(jsonl(tmp_path / "x.jsonl", 40)), seed=0)
    assert list(split(config, 17)) == list(islice(split(config), 17, None))


@pytest.mark.parametrize(("content", "name", "said"), [
    ('{"text": "a"}\n{"body": "b"}', "x.jsonl", "line 2: found no text in task.column=text"),
    ('{"text": "a"}\n{"text', "x.jsonl", "line 2: cannot be read"),
    ("short", "x.txt", "task.length=128: found"),
])
def test_bad_text_is_one_line(content: str, name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as error:
        Text(TextKeys(data=str(tmp_path / name), seed=0), 0)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@every(st.text())
def test_pieces_are_the_text_again(text: str) -> None:
    for pieces in (Characters.learn(text), Trie.learn(SENTENCE * 5, 280)):
        assert pieces_of(pieces.state()).decode(pieces.encode(text)) == text
        assert len(set(pieces.names)) == len(pieces.names)


def test_unknown_characters_and_special_words() -> None:
    vocabulary = PieceVocabulary(Characters("ab"), 3)
    assert vocabulary.words == ["<pad>", "<end>", "a", "b", "\ufffd", "</think>", "<t0>", "<t1>",
                                "<t2>"]
    assert vocabulary.encode("abc") == [2, 3, 4]
    assert vocabulary.text([2, 6, 5, 3, 1, 0]) == "a<t0></think>b<end>"


# --- models ---------------------------------------------------------------------------------------


def test_a_branch_is_the_passage_up_to_its_place_and_itself() -> None:
    """Beside every branch computed alone, one plain sequence each; in one go and in two."""
    net = network()
    passages = torch.randint(12, (2, 7))
    at = torch.tensor([[0, 3, 3, 6], [1, 2, 5, 5]])
    rows = torch.randint(12, (2, 4, 3))
    _, past = net.read(passages)
    hidden, _ = net.branch(rows, past, at)
    first, own = net.branch(rows[:, :, :1], past, at)
    rest, _ = net.branch(rows[:, :, 1:], past, at, own)
    assert torch.allclose(torch.cat([first, rest], 2), hidden, atol=1e-12)
    for passage in range(2):
        for number in range(4):
            end = int(at[passage, number]) + 1
            alone = torch.cat([passages[passage, :end], rows[passage, number]])[None]
            assert torch.allclose(net(alone)[0][0, end:], hidden[passage, number], atol=1e-12)


def test_heads_beside_networks_are_clipped_and_guarded() -> None:
    """A gradient that is not finite is noticed wherever it is."""
    vocabulary = PieceVocabulary(Characters("ab"), 2)
    policy = PositionPolicy(network(len(vocabulary)), vocabulary, Rules(2, False), 1, True)
    config = TrainerConfig(grad_clip=0.001)
    learner = Learner(config, policy, SFT(), lambda step: 0.0, False, torch.device("cpu"))
    assert policy.mixer is not None
    for weight in policy.mixer.parameters():
        weight.grad = torch.ones_like(weight)
    assert learner.clip() > 1
    total = torch.cat([grad.flatten() for weight in policy.mixer.parameters()
                       if (grad := weight.grad) is not None]).norm()
    assert float(total) == pytest.approx(0.001, rel=1e-3)
    policy.mixer.out.bias.grad = torch.full_like(policy.mixer.out.bias, torch.inf)
    assert not torch.isfinite(learner.clip())


def test_a_wider_network_says_the_same_of_what_it_knew() -> None:
    for tied in (True, False):
        torch.manual_seed(1)
        net = Transformer(Shape(12, 8, 16, 2, 4, tied=tied))
        wider = resized(net, 15, 20)
        tokens = torch.randint(12, (3, 8))
        assert wider.shape.vocabulary == 15 and wider.shape.positions == 20
        assert torch.equal(wider.logits(wider(tokens)[0], slice(0, 12)),
                           net.logits(net(tokens)[0]))


def passages(policy: PositionPolicy, count: int = 3, length: int = 9) -> Problems:
    rows = torch.randint(2, 7, (count, length + 1), generator=torch.Generator().manual_seed(2))
    problems = Problems(rows[:, :-1], rows[:, 1:], None, 0)
    return replace(problems, positions=all_positions(policy, problems))


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(("ahead", "mixes"), [(1, False), (1, True), (3, True)])
def test_all_places_at_once_are_each_place_alone(stops: bool, ahead: int, mixes: bool) -> None:
    """Log-probabilities of thoughts and of next tokens, row by row, by plain sequences."""
    policy = thinker(stops, ahead, mixes)
    if policy.mixer is not None:
        torch.nn.init.normal_(policy.mixer.out.weight)
    problems = passages(policy)
    rollouts = think_at_positions(policy, problems, 2, Sampling(temperature=0.7),
                                  torch.Generator().manual_seed(0))
    scores = policy.score(rollouts, Sampling(temperature=0.7))
    assert torch.allclose(scores.logprobs, rollouts.logprobs.double(), atol=1e-6)
    logprob = policy.answer(problems, rollouts.thought, rollouts.samples)[0]
    places = problems.positions
    assert places is not None
    predicted = policy.predictions(problems, rollouts.thought, rollouts.samples)
    mixed = predicted.gather(-1, policy.targets(problems).repeat_interleave(2, 1)[
        ..., None])[..., 0].sum(-1).flatten()
    net, allowed, rows = policy.thinker, policy.allowed, iter(range(len(rollouts)))
    for passage in range(len(problems)):
        for place in places[passage].tolist():
            for _ in range(2):
                row = next(rows)
                thought = rollouts.thought[row][rollouts.mask[row]]
                real = problems.answer[passage, place:place + ahead]
                line = torch.cat([problems.question[passage, :place + 1], thought, real])
                hidden = net(line[None])[0][0]
                chosen = (net.logits(hidden[place:place + len(thought)], allowed) / 0.7)
                spoken = chosen.log_softmax(-1).gather(1, (thought - allowed.start).clamp_min(0)[
                    :, None])[:, 0]
                count = len(thought) - (not stops or len(thought) == 4)
                assert torch.allclose(spoken[:count], scores.logprobs[row, :count], atol=1e-8)
                expected = _mixed(policy, problems.question[passage], place, hidden, len(thought),
                                  real)
                assert torch.allclose(expected, mixed[row], atol=1e-8)
                ends = net.logits(hidden[place + len(thought):][:ahead], slice(
                    0, policy.vocabulary.end)).log_softmax(-1)
                alone = ends.gather(1, real[:, None]).sum()
                assert torch.allclose(alone, logprob[row], atol=1e-8)


def _mixed(policy: PositionPolicy, passage: torch.Tensor, place: int, hidden: torch.Tensor,
           width: int, real: torch.Tensor) -> torch.Tensor:
    """log p of the real tokens after a thought, by the definition."""
    net, total = policy.thinker, torch.zeros((), dtype=torch.float64)
    plain = net(passage[None])[0][0]
    for number, token in enumerate(real.tolist()):
        before, after = plain[place + number], hidden[place + width + number]
        p, q = (net.logits(state, slice(0, policy.vocabulary.end)).softmax(-1)[token]
                for state in (before, after))
        share = 1.0 if policy.mixer is None else policy.mixer(before, after).sigmoid()
        total = total + ((1 - share) * p + share * q).log()
    return total


def test_without_a_thought_a_thinking_model_is_the_normal_one() -> None:
    policy = thinker(False, 1, True)
    problems = passages(policy)
    normal = NextTokenPolicy(policy.thinker, policy.vocabulary, Rules(0, True))
    rollouts = think_at_positions(policy, problems, 2, GREEDY)
    assert torch.equal(-policy.unthinking(rollouts).view(3, 9, 2)[:, :, 0],
                       normal.predict(problems)[0])
    assert rollouts.group_size == 2 and rollouts.samples == 18


def test_places_are_all_or_random_or_the_hardest() -> None:
    policy = thinker(False, 2, False)
    problems = replace(passages(policy), positions=None)
    generator = torch.Generator().manual_seed(0)
    for where in ("all", "random", "hardest"):
        sampler = PositionSampler(SamplerConfig(samples=2), where, 3)
        found = sampler.positions(policy, problems, generator)
        assert found.shape == (3, 8 if where == "all" else 3)
        assert (found.diff(dim=1) > 0).all() and int(found.max()) <= 7
    surprise = policy.predict(problems)[0]
    hardest = (surprise[:, :-1] + surprise[:, 1:]).topk(3, 1).indices.sort(1).values
    assert torch.equal(found, hardest)


def test_correlation_by_hand() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0])
    assert float(correlation(a, b)) == pytest.approx(0.5)
    assert float(correlation(a, torch.ones(3))) == 0
    nearly = torch.tensor([1e6, 1e6, 1e6 + 0.0625])  # one step of float32 apart
    assert float(correlation(a, nearly)) == 0
    assert float(correlation(a, a * 1e-5)) == pytest.approx(1)


def test_tokens_further_ahead_are_learnt_and_nothing_else_changes() -> None:
    """The loss is the mean of both distances; the k-th layer is asked for the k-th next token."""
    torch.manual_seed(3)
    vocabulary = PieceVocabulary(Characters("abcde"), 0)
    policy = NextTokenPolicy(network(len(vocabulary)), vocabulary, Rules(0, True), ahead=2).double()
    problems = replace(passages(thinker(False, 1, False)), positions=None)
    rollouts = sample(policy, problems, 1, Sampling())
    assert policy.further is not None
    hidden = policy.thinker(problems.question)[0]
    state = hidden[:, :-1] + torch.nn.functional.gelu(policy.further.layers[0](hidden[:, :-1]))
    second = policy.thinker.logits(state, slice(0, vocabulary.end)).log_softmax(-1).gather(
        -1, problems.answer[:, 1:, None])[..., 0].mean(1)
    first = -policy.predict(problems)[0].mean(1)
    assert torch.allclose(policy.score(rollouts, Sampling()).answer, (first + second) / 2)
    assert torch.equal(policy.answer(problems, rollouts.thought)[0], first)
