"""Language models of many families: what is read here is what `transformers` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import families
from ponder.config.errors import UserError
from ponder.config.players import HfConfig
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import (
    distance,
    limit,
    load_text_model,
    restore_text_model,
    save_text_model,
)
from support.questions import WORDS
from support.small import Door

SMALL = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 1}
CAPPED = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
SERVED = {
    "Llama": {}, "Mistral": {"sliding_window": 16}, "Qwen2": {}, "Qwen3": {"head_dim": 8},
    "Gemma2": {**CAPPED, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "Gemma3Text": CAPPED, "Granite": {"logits_scaling": 3.0, "attention_multiplier": 0.1},
    "Cohere": {"logit_scale": 0.5}, "Phi3": {"sliding_window": 16},
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "GPTNeoX": {},
}
REFUSED = {"GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
           "Bloom": {"n_layer": 2, "n_head": 4}}


def of_family(name: str, changes: dict[str, Any]) -> Any:
    """A random model with weights large enough to tell."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **changes})
    net = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, weight in net.named_parameters():
        if weight.dim() > 1 or "sinks" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return net


@pytest.mark.parametrize("name", SERVED)
def test_a_family_is_read_as_transformers_reads_it(name: str) -> None:
    net = Model(of_family(name, SERVED[name]), len(WORDS))
    assert distance(net) < 1e-5
    tokens = torch.arange(10).view(1, 10)
    with net.attending("eager"):
        theirs = net.model(input_ids=tokens).logits
    torch.testing.assert_close(net.logits(net.read(tokens)[0]), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*SERVED, *REFUSED])
def test_in_half_precision_only_rounding_is_forgiven(name: str) -> None:
    net = Model(of_family(name, {**SERVED, **REFUSED}[name]).bfloat16(), len(WORDS))
    apart, most = distance(net), limit(net)
    assert apart < most / 2 if name in SERVED else apart > 2 * most


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_cannot_be_served_is_refused(name: str, door: Door) -> None:
    of_family(name, REFUSED[name]).save_pretrained("model")
    WORDS.tokenizer.save_pretrained("model")
    Path("text.txt").write_text("the cat sat on the mat. " * 60)
    code, _, err = door("experiment=normal_smollm2", "model=hf", "model.name=model",
                        "task.data=text.txt", "task.length=16")
    assert code == 2 and f"model.name=model: found a {name}ForCausalLM" in err, err


def test_a_text_behind_its_sliding_window_is_refused() -> None:
    net = Model(of_family("Mistral", {"sliding_window": 6}), len(WORDS))
    first, segment = net.read(torch.arange(4).view(1, 4))
    assert first.shape == (1, 4, 32)
    net.read(torch.arange(2).view(1, 2), prefix=[segment])
    with pytest.raises(UserError, match=r"found a text of 7 tokens, where .* sees the last 6"):
        net.read(torch.arange(3).view(1, 3), prefix=[segment])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "mixtral", "mistral", "bloom", "stablelm"])
def test_a_family_from_start_to_end(name: str, tmp_path: Path) -> None:
    """Those that cannot attend by `sdpa`, with experts, with a window, by alibi."""
    _, *cells = families.examine(name, tmp_path)
    if name in ("bloom", "stablelm"):
        assert cells[0].startswith(f"refused: {families.FAMILIES[name][0]}ForCausalLM, which ")
        assert "reading" not in cells[0] and cells[1:] == ["", ""]  # all three
    else:
        assert all(float(cell) < families.LIMIT for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen2_moe", "gpt_neox", "gpt_oss"])
def test_all_weights_of_a_checkpoint_come_back(name: str, rank: int, tmp_path: Path) -> None:
    """In files, experts are apart and some weights have other names than in the module."""
    families.make(name, tmp_path)
    config = HfConfig(name=str(tmp_path / "model"), lora_r=rank)
    net = load_text_model(config, len(WORDS))
    learnt = [weight for weight in net.parameters() if weight.requires_grad]
    for weight in learnt:
        torch.nn.init.normal_(weight)
    save_text_model(net, tmp_path / "saved", WORDS)
    before = [weight.detach().clone() for weight in learnt]
    for weight in learnt:
        torch.nn.init.zeros_(weight)
    restore_text_model(net, tmp_path / "saved")
    assert all(map(torch.equal, learnt, before)) and len(learnt) > 10
