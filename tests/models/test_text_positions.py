"""Language models of Hugging Face that think behind the places of a text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ponder.config.players import SamplerConfig
from ponder.config.running import GenerateConfig
from ponder.core.math import GREEDY, Sampling
from ponder.core.types import Problems
from ponder.generation.contexts import ThinkingContext
from ponder.generation.generators import ThinkingTextGenerator
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Rules
from ponder.models.policies.next_token import NextTokenPolicy, PositionPolicy
from ponder.rollouts.sampler import PositionSampler, all_positions, think_at_positions
from ponder.tokenizers.vocabulary import ThinkingVocabulary
from support.questions import WORDS, language_model, save_language_model, vocabulary
from support.small import Door, generator

SENTENCE = "the cat sat on the mat and the rat sat on the cat. "
THOUGHTS = 4
HOT = Sampling(temperature=0.7)
RUN = ["experiment=supervised_rollout_smollm2", "model=hf", "model.name=model",
       "task.data=text.txt", "task.length=16", "task.test_passages=4", "task.place_count=3",
       "thinker.vocabulary=4", "trainer.dtype=float32", "trainer.threads=1",
       "trainer.log_every_n_steps=1", "hydra.run.dir=run"]


def words() -> ThinkingVocabulary:
    tokenizer = vocabulary().tokenizer
    tokenizer.add_tokens([f"<t{number}>" for number in range(THOUGHTS + 1)])
    return ThinkingVocabulary(tokenizer)


def network(kind: str, adapted: bool = False) -> Model:
    net = language_model(kind)
    net.resize_token_embeddings(len(WORDS) + THOUGHTS + 1, mean_resizing=False)
    model = Model(net.double(), len(WORDS) + THOUGHTS + 1)
    if adapted:
        from ponder.config.players import HfConfig
        model.adapt(HfConfig(lora_r=4, thought_tokens=THOUGHTS + 1))
        for name, weight in model.named_parameters():
            if "lora_B" in name or "delta" in name:
                torch.nn.init.normal_(weight, std=0.1)
    return model.double()


def thinker(kind: str, stops: bool, ahead: int = 1, mixes: bool = True, adapted: bool = False,
            ) -> PositionPolicy:
    torch.manual_seed(3)
    policy = PositionPolicy(network(kind, adapted), words(), Rules(4, stops), ahead, mixes)
    if policy.mixer is not None:
        torch.nn.init.normal_(policy.mixer.out.weight)
    return policy.double().eval()


def passages(policy: PositionPolicy, count: int = 2, length: int = 7) -> Problems:
    rows = torch.randint(2, len(WORDS), (count, length + 1), generator=generator(2))
    problems = Problems(rows[:, :-1], rows[:, 1:], None, policy.vocabulary.pad)
    return replace(problems, positions=all_positions(policy, problems))


def plain(policy: PositionPolicy, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits (T, V), last states (T, D)) of one line of tokens (T,), as transformers has them."""
    net: Any = policy.thinker.model
    with policy.thinker.attending():
        found = net(input_ids=tokens[None], output_hidden_states=True)
    return found.logits[0], found.hidden_states[-1][0]


def test_thoughts_are_words_of_their_own() -> None:
    known = words()
    end = known.end
    assert (end, known.first_thought, len(known)) == (len(WORDS), len(WORDS) + 1, len(WORDS) + 5)
    assert known.allowed(True) == slice(end, end + 5)
    assert known.allowed(False) == slice(end + 1, end + 5)
    said = [*WORDS.encode("ab"), end + 1, end + 4, end, known.pad, *WORDS.encode("c")]
    assert known.text(said) == "ab<t0><t3></think>c"
    assert known.end_of_text == WORDS.end


@pytest.mark.slow
@pytest.mark.parametrize("kind, stops, ahead, mixes, adapted", [
    ("llama", False, 1, True, False), ("llama", True, 3, True, False),
    ("gpt2", True, 1, False, False), ("gpt2", False, 3, True, False),
    ("llama", True, 1, True, True)])
def test_all_places_at_once_are_each_place_alone(kind: str, stops: bool, ahead: int, mixes: bool,
                                                 adapted: bool) -> None:
    """Log-probabilities of thoughts and of the tokens behind them, by plain sequences."""
    policy = thinker(kind, stops, ahead, mixes, adapted)
    problems = passages(policy)
    rollouts = think_at_positions(policy, problems, 2, HOT, generator())
    scores = policy.score(rollouts, HOT)
    torch.testing.assert_close(scores.logprobs, rollouts.logprobs.double(), atol=1e-6, rtol=0)
    logprob, right = policy.answer(problems, rollouts.thought, rollouts.samples)
    foreseen = policy.predictions(problems, rollouts.thought, rollouts.samples).flatten(0, 1)
    allowed, end, row = policy.allowed, policy.vocabulary.end, 0
    behind = torch.zeros(len(rollouts), dtype=torch.float64)
    assert problems.positions is not None
    for number, places in enumerate(problems.positions.tolist()):
        for place in [place for place in places for _ in range(2)]:
            thought = rollouts.thought[row][rollouts.mask[row]]
            real = problems.answer[number, place:place + ahead]
            text = torch.cat([problems.question[number, :place + 1], real])
            line = torch.cat([problems.question[number, :place + 1], thought, real])
            logits, states = plain(policy, line)
            count = int(rollouts.learn[row].sum())
            made = logits[place:place + count, allowed]
            spoken = (made / 0.7).log_softmax(-1).gather(
                1, (thought[:count] - allowed.start)[:, None])[:, 0]
            torch.testing.assert_close(scores.logprobs[row, :count], spoken, atol=1e-8, rtol=0)
            first = place + len(thought)
            alone = logits[first:first + ahead, :end].log_softmax(-1)
            got = alone.gather(1, real[:, None])[:, 0]
            assert logprob[row].item() == pytest.approx(got.sum().item(), abs=1e-8)
            assert bool(right[row]) == (int(alone[0].argmax()) == int(real[0]))
            mixed = alone
            if policy.mixer is not None:
                before, beside = plain(policy, text)
                share = torch.sigmoid(policy.mixer(beside[place:place + ahead],
                                                   states[first:first + ahead]))[:, None]
                without = before[place:place + ahead, :end].log_softmax(-1)
                mixed = ((1 - share) * without.exp() + share * alone.exp()).log()
            torch.testing.assert_close(foreseen[row], mixed, atol=1e-8, rtol=0)
            behind[row] = (mixed.gather(1, real[:, None])[:, 0] + got).mean() / 2
            row += 1
    whole = torch.stack([plain(policy, line)[0][:, :end].log_softmax(-1).gather(
        1, answer[:, None]).mean() for line, answer in zip(
            problems.question, problems.answer, strict=True)])
    wanted = behind + whole.repeat_interleave(rollouts.samples)
    torch.testing.assert_close(scores.answer, wanted, atol=1e-8, rtol=0)


def test_gradients_are_those_of_plain_sequences() -> None:
    """Of the likelihood behind one thought, through thought and passage."""
    policy = thinker("gpt2", True, mixes=False)
    problems = replace(passages(policy, 1), positions=torch.tensor([[3]]))
    rollouts = think_at_positions(policy, problems, 1, HOT, generator())
    scores = policy.score(rollouts, HOT)
    (scores.answer.sum() + scores.logprobs.sum()).backward()
    ours = {name: weight.grad.clone() for name, weight in policy.named_parameters()
            if weight.grad is not None}
    policy.zero_grad()
    thought = rollouts.thought[0][rollouts.mask[0]]
    line = torch.cat([problems.question[0, :4], thought])
    logits, end = plain(policy, line)[0], policy.vocabulary.end
    count = int(rollouts.learn[0].sum())
    spoken = (logits[3:3 + count, policy.allowed] / 0.7).log_softmax(-1).gather(
        1, (thought[:count] - end)[:, None]).sum()
    foreseen = logits[-1, :end].log_softmax(-1)[problems.answer[0, 3]]
    whole = plain(policy, problems.question[0])[0][:, :end].log_softmax(-1).gather(
        1, problems.answer[0][:, None]).mean()
    (spoken + foreseen + whole).backward()
    for name, weight in policy.named_parameters():
        if name in ours:
            torch.testing.assert_close(ours[name], weight.grad, atol=1e-9, rtol=1e-6, msg=name)


def test_hard_places_are_those_of_the_reference() -> None:
    policy = thinker("llama", False)
    policy.norm = NextTokenPolicy(Model(language_model("gpt2"), len(WORDS)), WORDS, Rules(0, False))
    problems = passages(policy, 3)
    sampler = PositionSampler(SamplerConfig(samples=2), "hardest", 2)
    found = sampler.positions(policy, problems, generator())
    surprise, _ = policy.norm.predict(problems)
    assert torch.equal(found, surprise.topk(2, 1).indices.sort(1).values)
    rollouts = policy.annotate(sampler.collect(policy, problems, 0, generator()), Sampling())
    hard = surprise.gather(1, found).repeat_interleave(2, 1).flatten()
    torch.testing.assert_close(rollouts.parts["difficulty"], hard)


def test_greedy_thoughts_are_the_likeliest() -> None:
    policy = thinker("gpt2", False)
    problems = passages(policy, 1)
    thought = think_at_positions(policy, problems, 1, GREEDY).thought
    for place, row in enumerate(thought.tolist()):
        line = problems.question[0, :place + 1]
        for token in row[:-1]:
            logits = plain(policy, line)[0][-1, policy.allowed]
            assert token == int(logits.argmax()) + policy.allowed.start
            line = torch.cat([line, torch.tensor([token])])
        assert row[-1] == policy.vocabulary.end


# --- speaking -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind, stops", [("llama", True), ("gpt2", False)])
def test_a_written_word_is_as_likely_as_it_is_foreseen(kind: str, stops: bool) -> None:
    """Behind the thoughts in front of it, all places at once; company changes nothing."""
    policy = thinker(kind, stops)
    known: Any = policy.vocabulary
    context = ThinkingContext(policy, policy.predicted, (known.end_of_text,))
    speaker = ThinkingTextGenerator(context, known)
    prompt = speaker.prompt("the cat")
    config = GenerateConfig(samples=5, tokens=9, temperature=1.3)
    texts, lengths = speaker.sample(prompt, config, generator()), set()
    for text in texts:
        said = speaker.scored_tokens(text.tokens)
        line = torch.tensor([[*prompt, *said]])
        places = torch.arange(len(prompt) - 1, line.shape[1] - 1)[None]
        thought = told(text.tokens, policy)
        problems = Problems(line[:, :-1], line[:, 1:], None, known.pad, positions=places)
        foreseen = policy.predictions(problems, thought, len(said))
        each = foreseen[0, :, 0].gather(1, torch.tensor(said)[:, None])[:, 0]
        assert text.logprob == pytest.approx(float(each.sum()), abs=1e-6)
        lengths |= {int((row != known.pad).sum()) for row in thought}
    assert len(lengths) > 2 if stops else lengths == {5}
    streamed = [token for token, _ in speaker.stream(prompt, config, generator())]
    assert streamed == texts[0].tokens
    greedy, = speaker.sample(prompt, GenerateConfig(temperature=0.0, tokens=4), generator())
    best = speaker.search(prompt, GenerateConfig(beams=1, tokens=4))[0]
    assert best.tokens == greedy.tokens


def told(tokens: list[int], policy: PositionPolicy) -> torch.Tensor:
    """(N, K + 1): the thoughts in front of words."""
    rows: list[list[int]] = [[]]
    for token in tokens:
        if token >= policy.vocabulary.end:
            rows[-1].append(token)
        else:
            rows.append([])
    assert rows.pop() == []
    width = policy.rules.tokens + 1
    return torch.tensor([[*row, *[policy.vocabulary.pad] * (width - len(row))] for row in rows])


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "model.lora_r=4", "strategy=grpo variant=[think]",
                                  "task.ahead=2 task.places=hardest model.ref_name=model"])
def test_a_normal_model_becomes_a_thinking_one(more: str, door: Door) -> None:
    """It learns, its checkpoint is one of plain libraries with words and mixer, and is begun with
    again; without a thought it says what it said.
    """
    Path("text.txt").write_text(SENTENCE * 60)
    save_language_model(Path("model"), "llama")
    code, _, err = door(*RUN, *more.split(), "trainer.max_steps=12", "trainer.lr=3e-3")
    assert code == 0, err
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [line["val/loss"] for line in lines if "val/loss" in line]
    assert losses[-1] < 0.97 * losses[0]
    assert any("reward_difficulty" in line for line in lines)
    found = json.loads(Path("run/summary.json").read_text())
    assert set(found["necessity"]) == {"own", "shuffled", "random", "constant", "dropped"}
    saved = max(Path("run").glob("checkpoint_*"))
    assert (saved / "mixer.safetensors").is_file()
    from transformers import AutoTokenizer
    assert len(AutoTokenizer.from_pretrained(saved)) == len(WORDS) + THOUGHTS + 1
    code, _, err = door(*RUN[:-1], *more.split(), f"model.name={saved}", "trainer.max_steps=0",
                        "hydra.run.dir=again")
    assert code == 0, err
    again = json.loads(Path("again/summary.json").read_text())["metrics"]["val/loss"]
    assert again == pytest.approx(losses[-1], abs=1e-5)
    code, out, err = door("action=generate", f"model.name={saved}", "prompt=the cat",
                          "generate.tokens=5", "generate.thoughts=plain")
    assert code == 0 and out.startswith("the cat<t") and out.count("</think>") == 5, err
    assert " 5 tokens and " in out
    code, out, err = door("action=generate", f"model.name={saved}", "prompt=the cat",
                          "generate.tokens=5", "thinker.tokens=0")
    assert code == 0 and "<t" not in out, err


def test_without_a_thought_it_says_what_the_normal_model_said(door: Door) -> None:
    Path("text.txt").write_text(SENTENCE * 60)
    save_language_model(Path("model"), "llama")
    code, _, err = door(*RUN, "trainer.max_steps=0")
    assert code == 0, err
    thinks = json.loads(Path("run/summary.json").read_text())["metrics"]["val/loss_without"]
    code, _, err = door(*RUN[:-1], "variant=[]", "strategy=sft", "trainer.max_steps=0",
                        "hydra.run.dir=normal")
    assert code == 0, err
    normal = json.loads(Path("normal/summary.json").read_text())["metrics"]["val/loss"]
    assert thinks == pytest.approx(normal, abs=1e-6)
    assert len(list(Path("scratch/text").iterdir())) == 1  # cut once


@pytest.mark.slow
def test_it_goes_on_as_if_it_had_never_stopped(door: Door) -> None:
    Path("text.txt").write_text(SENTENCE * 60)
    save_language_model(Path("model"), "gpt2")
    more = [*RUN, "trainer.max_steps=6", "trainer.save_every_n_steps=3", "model.lora_r=2"]
    code, _, err = door(*more)
    assert code == 0, err
    whole = json.loads(Path("run/summary.json").read_text())["weights_sha256"]
    shutil.rmtree(max(Path("run").glob("checkpoint_*"), key=lambda path: path.stat().st_mtime_ns))
    Path("run/summary.json").unlink()
    code, out, err = door(*more)
    assert code == 0 and "going on from step 3" in out + err, out + err
    assert json.loads(Path("run/summary.json").read_text())["weights_sha256"] == whole


@pytest.mark.parametrize("more, said", [
    ("model.thought_tokens=9", "model.thought_tokens=9: found thinker.vocabulary=4, whose tokens"),
    ("thinker.kind=continuous", "thinker.kind=continuous: found "),
    ("task.length=510", "task.length=510: found model.name=model, which reads 512 tokens"),
    ("model.ref_name=other", "model.ref_name=other: cannot be read"),
])
def test_what_it_does_not_do_is_one_line(more: str, said: str, door: Door) -> None:
    Path("text.txt").write_text(SENTENCE * 600)
    save_language_model(Path("model"), "gpt2")
    code, _, err = door(*RUN, *more.split())
    assert code == 2 and err.count("\n") == 1 and said in err, err
