"""Our GPT-2 is GPT-2: the same logits as `transformers`, whatever way they are computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ponder.config.errors import UserError
from ponder.models.gpt2.layers import Shape, sinusoids
from ponder.models.gpt2.model import Init, Transformer
from ponder.tokenizers.vocabulary import Vocabulary
from ponder.training.checkpoint import load_model, save, save_pretrained, weights_sha256
from support.small import make_policy, make_task

VOCABULARY = Vocabulary(tuple("0123456789+="), 10)
SHAPE = Shape(len(VOCABULARY), 24, 16, 2, 2)


def network(**changes) -> Transformer:
    return Transformer(Shape(**{**SHAPE.__dict__, **changes}), Init(*[0.3] * 5))


def tokens(rows: int = 3, columns: int = 9) -> torch.Tensor:
    return torch.randint(1, len(VOCABULARY), (rows, columns))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sinusoidal", [True, False])
def test_opens_in_transformers_with_equal_logits(tmp_path: Path, tied: bool,
                                                 sinusoidal: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = network(tied=tied, sinusoidal=sinusoidal)
    save_pretrained(ours, tmp_path, VOCABULARY)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    row = tokens()
    with torch.no_grad():
        assert torch.allclose(theirs(row).logits, ours.logits(ours(row)[0]), atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "31+84=<t4><t9></think>"
    ids = tokenizer(text)["input_ids"]
    assert [VOCABULARY.words[i] for i in ids] == ["3", "1", "+", "8", "4", "=", "<t4>", "<t9>",
                                                  "</think>"]


def test_saved_model_loads_back_bit_for_bit(tmp_path: Path) -> None:
    ours = network(sinusoidal=True)
    save_pretrained(ours, tmp_path, VOCABULARY)
    assert weights_sha256(load_model(tmp_path)) == weights_sha256(ours)
    assert load_model(tmp_path).shape == ours.shape


def test_policy_checkpoint_holds_both_players(tmp_path: Path) -> None:
    policy = make_policy(make_task())
    save(policy, tmp_path / "c", {"seed": 1})
    save(policy, tmp_path / "c", {"seed": 2})
    assert weights_sha256(load_model(tmp_path / "c")) == weights_sha256(policy.thinker)
    assert weights_sha256(load_model(tmp_path / "c/answerer")) == weights_sha256(policy.answerer)
    assert json.loads((tmp_path / "c/ponder.json").read_text()) == {"config": {"seed": 2}}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("harm", ["truncate", "missing", "garbage", "foreign", "shape"])
def test_damaged_checkpoint_is_one_line(tmp_path: Path, harm: str) -> None:
    save_pretrained(network(), tmp_path, VOCABULARY)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    if harm == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == "missing":
        weights.unlink()
    elif harm == "garbage":
        weights.write_bytes(b"no weights at all")
    elif harm == "foreign":
        config.write_text(json.dumps({"model_type": "llama"}))
    else:
        config.write_text(config.read_text().replace('"n_embd": 16', '"n_embd": 32'))
    with pytest.raises(UserError) as error:
        load_model(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_past_extension_and_plain_forward_agree() -> None:
    net, row = network(), tokens()
    whole, _ = net(row)
    first, past = net(row[:, :5])
    rest, _ = net(row[:, 5:], past)
    assert torch.allclose(torch.cat([first, rest], 1), whole, atol=1e-5)
    with torch.no_grad():
        cache = net.cache(past, 4)
        steps = [net.extend(row[:, column], cache) for column in range(5, 9)]
    assert torch.allclose(torch.stack(steps, 1), whole[:, 5:], atol=1e-5)


def test_last_columns_are_those_of_the_whole() -> None:
    net, row = network(), tokens()
    mask = torch.ones_like(row, dtype=torch.bool)
    mask[0, :2] = False
    past = net(row[:, :4])[1]
    for last in (1, 3, 5):
        assert torch.allclose(net(row, last=last)[0], net(row)[0][:, -last:], atol=1e-6)
        assert torch.allclose(net(row, mask=mask, last=last)[0], net(row, mask=mask)[0][:, -last:],
                              atol=1e-6)
        assert torch.allclose(net(row[:, 4:], past, last=last)[0],
                              net(row[:, 4:], past)[0][:, -last:], atol=1e-6)


def test_gradient_flows_through_the_past() -> None:
    net, row = network(), tokens(2)
    net(row)[0][:, 5:].square().sum().backward()
    plain = net.wte.weight.grad.clone()
    net.zero_grad()
    past = net(row[:, :5])[1]
    net(row[:, 5:], past)[0].square().sum().backward()
    assert torch.allclose(net.wte.weight.grad, plain, atol=1e-4)


def test_sinusoids_by_hand() -> None:
    table = sinusoids(3, 4)
    assert table[0].tolist() == [0, 1, 0, 1]
    assert table[2, 0] == pytest.approx(0.9093, abs=1e-4)  # sin 2
    assert table[2, 3] == pytest.approx(0.9998, abs=1e-4)  # cos 0.02


def test_sinusoidal_positions_are_not_trained() -> None:
    net = network(sinusoidal=True)
    assert not net.wpe.weight.requires_grad
    assert torch.equal(net.wpe.weight, sinusoids(24, 16))


@pytest.mark.slow
def test_compiled_blocks_are_few_graphs_whatever_the_depth() -> None:
    """One of training, one of evaluation, one for batches of other sizes; the same losses."""
    found, counter = [], CompileCounterWithBackend("eager")
    for compiled in (False, True):
        torch.manual_seed(0)
        net = Transformer(Shape(30, 64, 16, 5, 2))
        for block in net.blocks if compiled else []:
            block.compile(backend=counter)
        losses = []
        for rows, learns in ((8, True), (8, True), (8, False), (3, True), (5, True)):
            text = torch.randint(30, (rows, 20), generator=torch.Generator().manual_seed(rows))
            with torch.set_grad_enabled(learns):
                loss = net.read(text, keep=False)[0].sin().mean()
            losses.append(float(loss.detach()))
            if learns:
                loss.backward()
        found.append((losses, net.wte.weight.grad.clone()))
    torch.testing.assert_close(*found)
    assert counter.frame_count <= 3
