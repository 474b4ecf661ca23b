"""The best policy is found by language models of Hugging Face that continue texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optimum import LETTERS, SAMPLES, TOKENS, Census, trainer_of, value_of
from ponder.config.players import SamplerConfig
from ponder.models.huggingface.model import Model
from ponder.models.policies.base import Rules
from ponder.models.policies.continuation import ContinuationPolicy
from ponder.models.policies.value_head import ValueHead
from ponder.rollouts.written import Store, Written
from ponder.tasks.text.passages import Corpus, CorpusKeys
from ponder.tokenizers.vocabulary import TextVocabulary
from support.optimum import STRATEGIES, fit

pytestmark = pytest.mark.nightly


def letters() -> TextVocabulary:
    """Five letters; the id 0 is the end."""
    from transformers import PreTrainedTokenizerFast

    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["<end>", *"abcde"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    return TextVocabulary(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>"))


def scribbler(words: TextVocabulary, value: str, stops: bool) -> ContinuationPolicy:
    """A small GPT-2 of transformers whose texts are anything but equally likely, and a reference
    that is it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def net() -> Model:
        torch.manual_seed(11)
        found = Model(GPT2LMHeadModel(GPT2Config(
            vocab_size=len(words), n_embd=32, n_layer=1, n_head=2, n_positions=TOKENS + 2,
            initializer_range=0.3, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
            bos_token_id=0, eos_token_id=0)), len(words))
        found.barred = () if stops else words.ends
        return found

    critic = None
    if value != "none":
        critic = ValueHead(32, "token", net() if value == "separate" else None)
    return ContinuationPolicy(net(), None, words, Rules(TOKENS, stops, writes="text"),
                              critic=critic, reference=net())


@pytest.mark.parametrize("name, stops", [
    ("ppo, shared", True), ("ppo, separate", False), ("ppo, separate", True), ("grpo", False),
    ("reinforce", True)])
def test_the_optimum_is_found(name: str, stops: bool, tmp_path: Path) -> None:
    """As networks of our own do in test_optimum.py: the best policy of reward minus KL."""
    words, strategy = letters(), STRATEGIES[name]()
    task = Corpus(CorpusKeys(prompt="", seed=0, test_passages=1), words=words)
    source = Written(SamplerConfig(samples=SAMPLES), 64, 512, Store(tmp_path), None)
    more = {} if name.startswith("ppo") else {"steps": 800, "epochs": 1}
    trainer = trainer_of(strategy, task, **more, stops=stops, source=source,
                         policy=scribbler(words, value_of(strategy), stops))
    before = Census.of(trainer)
    assert len(before.own) == (156 if stops else LETTERS ** TOKENS)
    assert float(before.own.sum(1).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert before.reached == pytest.approx(0, abs=1e-6) and before.optimum > before.beginning + 0.05
    after = fit(trainer)
    assert 0.95 < after.reached < 1 + 1e-6, after.reached
    assert after.value is None or stops or after.explained > 0.7
