"""Both kinds of backbone are alike to the policies above: the same weights, the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ponder.core.math import GREEDY, Sampling
from ponder.core.types import Rollouts
from ponder.models.backbone import Backbone, Segment
from ponder.models.gpt2.layers import Shape
from ponder.models.gpt2.model import Init, Transformer
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Rules
from ponder.models.policies.question import ContinuousPolicy, GumbelPolicy, QuestionPolicy
from ponder.models.policies.value_head import ValueHead
from ponder.rollouts.latent import latent_rollouts
from ponder.rollouts.sampler import sample
from support.small import generator, make_task

V, D = 30, 16


def pair(words: int = V, positions: int = 40) -> tuple[Transformer, Model]:
    """Our GPT-2, and that of `transformers` with the same weights, in double precision."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    own = Transformer(Shape(words, positions, D, 2, 4), Init(0.3, 0.3, 0.5, 0.3)).double()
    theirs = GPT2LMHeadModel(GPT2Config(
        vocab_size=words, n_positions=positions, n_embd=D, n_layer=2, n_head=4, attn_pdrop=0.0,
        embd_pdrop=0.0, resid_pdrop=0.0)).double()
    theirs.load_state_dict(own.state_dict(), strict=False)
    theirs.tie_weights()
    return own, Model(theirs.eval(), words)


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def both(look: Any, words: int = V, positions: int = 40) -> None:
    """What a function finds with either backbone is the same."""
    found, expected = (look(net) for net in pair(words, positions))
    same(found, expected)


def padded_left() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(1, V, (3, 6), generator=generator())
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, :3] = False
    return tokens, mask


@pytest.mark.slow
def test_tokens_and_embeddings_are_read_alike() -> None:
    tokens, mask = padded_left()

    def look(net: Backbone) -> list[Tensor]:
        states, segment = net.read(tokens, mask, last=2)
        again, _ = net.read(net.embed(tokens), mask, last=2)
        same(again, states)
        assert segment.length.tolist() == [6, 3, 6] and net.width == D and net.positions == 40
        return [states, net.logits(states, slice(3, 9)), net.embeddings]

    both(look)


def test_rows_behind_a_shared_segment_are_read_alike() -> None:
    """Two rows after each question, and one more token after both: nothing is read twice."""
    tokens, mask = padded_left()
    rows = torch.randint(1, V, (6, 3), generator=generator(1))

    def look(net: Backbone) -> list[Tensor]:
        _, question = net.read(tokens, mask)
        states, own = net.read(rows, prefix=[question])
        later, _ = net.read(rows[:, :1], prefix=[question, own], keep=False)
        whole = torch.cat([tokens.repeat_interleave(2, 0), rows, rows[:, :1]], 1)
        seen = torch.cat([mask.repeat_interleave(2, 0), torch.ones(6, 4, dtype=torch.bool)], 1)
        plain, _ = net.read(whole, seen, last=4)
        same(torch.cat([states, later], 1), plain)
        joined = question.repeat(2).longer(own)
        same(net.read(rows[:, :1], prefix=[joined])[0], later)
        return [states, later]

    both(look)


@pytest.mark.parametrize("samples", [1, 2])
def test_rows_after_their_questions_are_read_alike(samples: int) -> None:
    task = make_task()
    problems = task.sample(4, generator())
    words = len(task.vocabulary)
    rows = torch.randint(1, words, (4 * samples, 3), generator=generator(1))
    mask = torch.ones_like(rows, dtype=torch.bool)
    mask[0, 1] = False

    def look(net: Backbone) -> list[Tensor]:
        plain = net.after(problems, rows, samples, 4)
        same(net.after(problems, net.embed(rows), samples, 4), plain)
        hidden = net.after(problems, rows, samples, 4, mask=mask)
        return [plain, hidden[1:], hidden[0, [0, 1, 3]]]  # states on padding are nobody's

    both(look, words)


def test_branches_are_read_alike() -> None:
    passages = torch.randint(1, V, (2, 7), generator=generator())
    at = torch.tensor([[0, 3, 3], [1, 5, 6]])
    rows = torch.randint(1, V, (2, 3, 3), generator=generator(1))

    def look(net: Backbone) -> Tensor:
        _, passage = net.read(passages)
        states, _ = net.branch(rows, passage, at)
        first, own = net.branch(rows[:, :, :1], passage, at)
        rest, _ = net.branch(rows[:, :, 1:], passage, at, own)
        same(torch.cat([first, rest], 2), states)
        short = net.branch(rows[:1], passage.first(slice(0, 1), 4), at[:1])[0]
        same(short, states[:1])
        return states

    both(look)


@pytest.mark.parametrize("leaving", [False, True])
def test_decoders_write_what_would_be_read(leaving: bool) -> None:
    """Three tokens written one by one; rows leave; what was written can be taken back."""
    tokens, mask = padded_left()
    rows = torch.randint(1, V, (6, 3), generator=generator(1))

    def look(net: Backbone) -> list[Tensor]:
        _, question = net.read(tokens, mask)
        decoder, found = net.decoder(question, 2, 3, leaving), []
        for column in range(2):
            found.append(decoder.step(rows[:, column]))
        assert decoder.written == 2 and decoder.room >= 3
        decoder.rewind(0)
        same(decoder.step(rows[:, 0]), found[0])
        same(decoder.step(rows[:, 1]), found[1])
        kept = torch.tensor([1, 2, 5]) if leaving else torch.arange(6)
        decoder = decoder.select(kept) if leaving else decoder
        found.append(decoder.step(rows[kept, 2]))
        plain, _ = net.read(rows, prefix=[question])
        same(torch.stack(found[:2], 1), plain[:, :2])
        same(found[2], plain[kept, 2])
        return found

    both(look)


def test_a_decoder_grows_and_becomes_a_segment() -> None:
    prompt = torch.randint(1, V, (1, 5), generator=generator())
    rows = torch.randint(1, V, (1, 4), generator=generator(1))

    def look(net: Backbone) -> Tensor:
        _, segment = net.read(prompt)
        decoder = net.decoder(segment, 1, 1)
        decoder.step(rows[:, 0])
        decoder = decoder.grow(2)
        decoder.step(rows[:, 1])
        decoder = decoder.select(torch.tensor([0, 0]))
        assert decoder.written == 2 and decoder.room >= 3
        held: Segment = decoder.segment(torch.tensor([1]))
        assert held.mask.shape == (1, 7) and held.length.tolist() == [7]
        states, _ = net.read(rows[:, 2:], prefix=[held])
        same(states, net.read(torch.cat([prompt, rows], 1), last=2)[0])
        return states

    both(look)


def test_what_comes_next_is_as_likely() -> None:
    """Whole where the vocabulary is narrow, in chunks where it is wide, and with gradients."""
    tokens, _ = padded_left()
    target = torch.randint(2, 12, (3, 6), generator=generator(2))

    def look(net: Backbone) -> list[Tensor]:
        states, _ = net.read(tokens)
        loss, likeliest = net.predict(states, target, slice(0, 12))
        net.zero_grad()
        loss.sum().backward()
        logprobs = net.logprobs(states.detach().flatten(0, 1), target.flatten(), Sampling(0.7))
        grads = {name: weight.grad for name, weight in net.named_parameters()}
        some = next(grad for name, grad in grads.items() if name.endswith("h.0.attn.c_attn.weight"))
        assert some is not None
        return [loss.detach(), likeliest, logprobs, some]

    both(look)


# --- policies -------------------------------------------------------------------------------------


def scored(policy: QuestionPolicy, rollouts: Rollouts) -> list[Tensor]:
    found = policy.score(rollouts, Sampling())
    answer, right = policy.answer(rollouts.problems, rollouts.thought, rollouts.samples)
    assert found.value is not None
    same(answer, found.answer)
    policy.zero_grad()
    real = rollouts.mask[:, :-1]
    (found.logprobs.sum() + found.answer.sum() + (found.value * real).sum()).backward()
    weight = policy.thinker.get_parameter(next(
        name for name, _ in policy.thinker.named_parameters() if name.endswith("h.0.ln_1.weight")))
    assert weight.grad is not None
    return [found.logprobs, found.entropy, found.answer, right, found.value * real, weight.grad]


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("stops", [True, False])
def test_a_question_policy_thinks_and_answers_alike(stops: bool, sees: bool) -> None:
    """Its thoughts, how likely they are, answers, values and gradients; one network for both."""
    task = make_task()
    problems = task.sample(5, generator())
    rules = Rules(3, stops, sees_question=sees)

    def look(net: Backbone) -> list[Tensor]:
        torch.manual_seed(1)
        head = ValueHead(D, "token").double()
        torch.nn.init.normal_(head.head.weight)
        policy = QuestionPolicy(net, None, task.vocabulary, rules, critic=head)
        rollouts = sample(policy, problems, 2, Sampling(), generator(3))
        found = scored(policy, rollouts)
        same(rollouts.logprobs, found[0])
        return [rollouts.thought, *found, sample(policy, problems, 1, GREEDY).thought]

    both(look, len(task.vocabulary))


@pytest.mark.parametrize("reads", ["last", "mean"])
def test_one_value_a_question_is_that_of_the_question_alone(reads: str) -> None:
    """Of its last state, or of the mean over its tokens; padding before it changes nothing."""
    tokens, mask = padded_left()

    def look(net: Backbone) -> Tensor:
        torch.manual_seed(1)
        head = ValueHead(D, reads).double()
        torch.nn.init.normal_(head.head.weight)
        found = head.of_question(net, tokens, mask)
        for row, own in enumerate((tokens[0], tokens[1, 3:], tokens[2])):
            states = net.read(own[None])[0][0]
            state = states[-1] if reads == "last" else states.mean(0)
            same(found[row], head.head.bias[0] + head.head.weight[0] @ state)
        return found

    both(look)


@pytest.mark.parametrize("kind", [ContinuousPolicy, GumbelPolicy])
def test_differentiable_thoughts_compose_with_either(kind: type) -> None:
    """The answer's gradient by way of vectors that are fed back as input embeddings."""
    task = make_task()
    problems = task.sample(4, generator())

    def look(net: Backbone) -> list[Tensor]:
        policy = kind(net, None, task.vocabulary, Rules(3, False))
        rollouts = latent_rollouts(policy, problems, 2, generator(1))
        found = policy.score(rollouts, Sampling())
        net.zero_grad()
        found.answer.sum().backward()
        weight = net.get_parameter(next(name for name, _ in net.named_parameters()
                                        if name.endswith("h.1.mlp.c_fc.weight")))
        assert weight.grad is not None
        return [found.answer.detach(), weight.grad]

    both(look, len(task.vocabulary))
