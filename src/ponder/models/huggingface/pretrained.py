"""Hugging Face models from disk or hub, and back to disk: a full model or a peft adapter, whatever
was trained, in a directory that plain `transformers` and `peft` open.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ponder.config.errors import UserError, brief
from ponder.config.inputs import SCRATCH, base_of
from ponder.config.players import HfConfig
from ponder.core.distributed import shard_like, shard_state_dict
from ponder.core.lazy_imports import library
from ponder.core.math import at_least_float32
from ponder.models.backbone import must_be_finite
from ponder.models.huggingface.embedded import directory_of
from ponder.models.huggingface.model import REFERENCE, Model, context_limit
from ponder.tokenizers.vocabulary import TextVocabulary, token_ids

ADAPTER = "adapter_config.json"
PROBED = 8  # tokens of the text by which a model is compared with itself in `transformers`
SLACK = 3.0  # a distance of at most so many times that of rounding alone counts as rounding


def load_vocabulary(config: HfConfig, key: str = "model.name", closes: bool = False,
                    scratch: str | Path = SCRATCH) -> TextVocabulary:
    """The tokenizer of the model that `key` names; for `model.name` that of `model.chat_name` where
    it is set. closes: whether its first thought token ends a thought. scratch: where `smollm2` is
    unpacked, as below.
    """
    name = config.name if key == "model.name" else config.ref_name
    if config.chat_name and key == "model.name":
        key, name = "model.chat_name", config.chat_name
    with _named(key, name):
        path = directory_of(str(name), scratch)
        tokenizer = library().AutoTokenizer.from_pretrained(path)
        thoughts = [f"<t{number}>" for number in range(config.thought_tokens)]
        _add_tokens(tokenizer, thoughts, f"{key}={name}")
        ends = {end for place in {path, directory_of(str(config.name), scratch)}
                for end in _ends(place, config.base, scratch)}
        words = TextVocabulary(tokenizer, config.chat, closes, sorted(ends), date=config.date)
        if words.chat:  # the template is one
            words.prompt([("user", "?")])
        return words


def _add_tokens(tokenizer: Any, words: list[str], typed: str) -> None:
    """Add tokens behind all others. Raises `UserError` where ids are left out between these: the
    tokenizers library counts tokens, and would give a new one the id of another.
    """
    size, new = token_ids(tokenizer), [word for word in words if word not in tokenizer.get_vocab()]
    if new and len(tokenizer) != size:
        raise UserError(f"{typed}: found {len(tokenizer)} tokens with ids up to {size - 1}, so "
                        "that new ones would get ids of others; legal: a tokenizer without gaps in "
                        "its ids, or model.thought_tokens=0")
    tokenizer.add_tokens(new)


def _ends(path: str, base: str | None, scratch: str | Path) -> list[int]:
    """The ids that end a text by the model's settings for generation, else by its configuration; of
    an adapter, those of its base.
    """
    transformers = library()
    if (Path(path) / ADAPTER).is_file():
        path = _base_of(path, base, scratch)
    for kind in (transformers.GenerationConfig, transformers.AutoConfig):
        with contextlib.suppress(OSError, ValueError):
            found = getattr(kind.from_pretrained(path), "eos_token_id", None)
            if found is not None:
                return found if isinstance(found, list) else [found]
    return []


def reads_at_most(config: HfConfig, key: str = "model.name",
                  scratch: str | Path = SCRATCH) -> int | None:
    """The most tokens that the model which `key` names reads, by its configuration alone."""
    name = config.name if key == "model.name" else config.ref_name
    with _named(key, name):
        path = directory_of(str(name), scratch)
        if not (Path(path) / ADAPTER).is_file():
            return context_limit(library().AutoConfig.from_pretrained(path))
        base = _base_of(path, config.base, scratch)
        with _base_named(base, key, name):
            return context_limit(library().AutoConfig.from_pretrained(base))


def _base_of(path: str, base: str | None, scratch: str | Path) -> str:
    """The model that the adapter in a directory belongs to: `base`, else the one that it names.
    Raises `UserError` where it names none.
    """
    base = base or base_of(Path(path))
    if not base:
        raise UserError(f"model.base=null: found {Path(path) / ADAPTER}, which names no model that "
                        "the adapter belongs to; legal: that model")
    return directory_of(base, scratch)


def load_text_model(config: HfConfig, words: int, key: str = "model.name",
                    written: int | None = None, barred: Sequence[int] = (),
                    entropy_learns: bool = True, scratch: str | Path = SCRATCH) -> Model:
    """The model that `key` names: a whole model, or an adapter on its base. `model.name` gets new
    adapters where the configuration asks for them; other models are frozen.

    words: how many tokens its tokenizer has. written: it may write the first so many of them
    (default: all), except those that are `barred`. Raises `UserError` where it cannot be read.
    """
    name = config.name if key == "model.name" else config.ref_name
    with _named(key, name):
        path = directory_of(str(name), scratch)
        adapted = (Path(path) / ADAPTER).is_file()
        if config.base and not adapted:
            raise UserError(f"model.base={config.base}: found {key}={name}, which is no adapter; "
                            "legal: null")
        base = _base_of(path, config.base, scratch) if adapted else ""
        model = (_adapted(path, base, config, words, key, name) if adapted
                 else _plain(path, config, words))
    must_be_finite(model, f"{key}={name}")
    net = Model(model, words)
    _must_agree(net, f"{key}={name}")
    if key == "model.name":
        _prepare(net, config)
    net = Model(net.model, words if written is None else written, barred, entropy_learns,
                net.attention)
    return net if key == "model.name" else net.requires_grad_(False)


def _prepare(net: Model, config: HfConfig) -> None:
    """Adapters and gradient checkpointing, as the configuration asks for."""
    if net.adapted:
        _must_have_rank(net, config.lora_r)
    elif config.lora_r:
        _adapt(net, config)
    if config.checkpointing:
        net.network.gradient_checkpointing_enable({"use_reentrant": False})
        net.network.enable_input_require_grads()


def _must_agree(net: Model, typed: str) -> None:
    """Raise `UserError` for a model whose log-probabilities are wrong with our attention function:
    nothing else would show it.
    """
    kind = type(net.network).__name__
    if net.positions is not None and net.positions < PROBED:
        raise UserError(f"{typed}: found a {kind} that reads texts of at most {net.positions} "
                        f"tokens; legal: one that reads {PROBED} or more")
    try:
        apart, most = distance(net), limit(net)
    except Exception as error:  # each architecture fails in its own way
        found = f"cannot be read ({brief(error, 80)})"
    else:
        if apart <= most:
            return
        found = f"would have wrong log-probabilities (by {apart:.2g} nats)"
    raise UserError(f"{typed}: found a {kind}, which {found}; legal: models of transformers that "
                    "take attention functions, such as Llama, Qwen, Mistral, OLMo, Gemma, GPT-2")


def _must_have_rank(net: Model, rank: int) -> None:
    """Raise `UserError` where an adapter is of another rank than was asked for."""
    known = getattr(net.model.peft_config["default"], "r", rank)
    if rank not in (0, known):
        raise UserError(f"model.lora_r={rank}: found an adapter of rank {known} in model.name; "
                        f"legal: {known}, or 0")


def _adapt(net: Model, config: HfConfig) -> None:
    """Add adapters to a model. Raises `UserError` where it has no such modules."""
    try:
        net.adapt(config)
    except ValueError as error:
        typed = f"model.lora_targets=[{','.join(config.lora_targets)}]"
        raise UserError(f"{typed}: found no place for adapters ({brief(error, 80)}); legal: "
                        "all-linear, or ends of names of linear layers, such as q_proj, v_proj"
                        ) from None


def _plain(path: str, config: HfConfig, words: int) -> Any:
    """A whole model, its embeddings extended by rows for the tokenizer's thought tokens."""
    transformers = library()
    model, about = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, config.dtype), output_loading_info=True)
    _must_be_whole(about)
    if words > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(words, mean_resizing=False)
    if config.thought_tokens:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        if "<t0>" not in tokenizer.get_vocab():  # else they are in its weights
            like = [tokenizer.encode(f" {word}", add_special_tokens=False)
                    for word in config.thought_words]
            for layer in {model.get_input_embeddings(), model.get_output_embeddings()}:
                _begin_rows(layer.weight, words - config.thought_tokens, words, config, like)
    return model


def _must_be_whole(about: dict[str, Any]) -> None:
    """Raise `ValueError` where files lack weights, which transformers would draw at random, or have
    layers that config.json does not, by what it says of loading them.
    """
    missing, unused = sorted(about["missing_keys"]), sorted(about["unexpected_keys"])
    layers = [name for name in unused if re.search(r"\.(layers|h|blocks)\.\d+\.", name)]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, the first of them {missing[0]}")
    if layers:
        raise ValueError(f"config.json has no layer for weights such as {layers[0]}")


@torch.no_grad()
def _begin_rows(weight: torch.Tensor, start: int, end: int, config: HfConfig,
                like: list[list[int]]) -> None:
    """Initialise the rows of thought tokens in embeddings (V, D) from those of words. The same
    values whatever the seed of a run, like pretrained weights.
    """
    random = torch.Generator().manual_seed(0)
    known = weight[:start].float()
    spread = known.std(0)
    for number, row in enumerate(range(start, end)):
        noise = torch.randn(known.shape[1], generator=random).to(spread) * spread
        if config.thought_init == "random":
            value = noise
        elif config.thought_init == "mean":
            value = known.mean(0) + 0.01 * noise  # equal rows would stay equal
        else:
            value = known[like[number % len(like)]].mean(0) + 0.01 * noise
        weight[row] = value.to(weight.dtype)


def _adapted(path: str, base: str, config: HfConfig, words: int, key: str,
             name: str | None) -> Any:
    """A peft adapter on its base, and a frozen copy of the adapter as the reference model, unless
    it has biases, of which peft holds one set. Raises `UserError` where the base cannot be read.
    """
    with _base_named(base, key, name):
        whole = _plain(base, config, words)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        model = library("peft").PeftModel.from_pretrained(whole, path, is_trainable=True)
    if model.peft_config["default"].bias == "none":
        model.load_adapter(path, REFERENCE, is_trainable=False)
        model.set_adapter("default")
    return model


def save_text_model(net: Model, directory: Path, vocabulary: TextVocabulary,
                    weights: dict[str, Tensor] | None = None) -> None:
    """Save weights as safetensors (of an adapted model only the adapter's) and the tokenizer.
    weights: by name, instead of the network's own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    more = {"selected_adapters": ["default"], "save_embedding_layers": False} if net.adapted else {}
    with net.attending():
        net.model.save_pretrained(directory, state_dict=weights, **more)
    vocabulary.tokenizer.save_pretrained(directory)


def restore_text_model(net: Model, directory: Path) -> None:
    """Give a model the weights of its own earlier checkpoint."""
    if net.adapted:
        from safetensors.torch import load_file

        weights = load_file(directory / "adapter_model.safetensors")
        own = {name.replace(".default", ""): weight for name, weight in
               net.model.named_parameters() if ".default" in name or weight.requires_grad}
        weights = {name: shard_like(own[name], value) for name, value in weights.items()}
        library("peft").set_peft_model_state_dict(net.model, weights, "default")
        return
    # Files may have other names and shapes than modules, such as a matrix for each expert.
    saved, about = type(net.network).from_pretrained(directory, dtype=net.dtype,
                                                     output_loading_info=True)
    _must_be_whole(about)
    net.network.load_state_dict(shard_state_dict(net.network, saved.state_dict()))


def _base_named(base: str, key: str, name: str | None) -> contextlib.AbstractContextManager[None]:
    """`_named` of the model that the adapter which `key` names belongs to."""
    return _named("model.base", base, f", of which {key}={name} is an adapter")


def quiet() -> None:
    """Switch off progress bars and warnings of transformers: runs have a display of their own."""
    logging = library("transformers.utils.logging")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft asks
    # What peft has chosen itself, of experts and of GPT-2.
    warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys|fan_in_fan_out is")


@contextlib.contextmanager
def _named(key: str, name: str | None, role: str = "") -> Iterator[None]:
    """Any error while loading a model becomes a `UserError` that names it, and its role."""
    quiet()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each of three libraries has many of its own
        away = isinstance(error, OSError) and not Path(str(name)).exists()
        reason = "no such directory, and none from the hub" if away else brief(error, 160)
        raise UserError(f"{key}={name}{role}: cannot be read ({reason}); legal: a directory with a "
                        "model or an adapter, or a name on the hub, where that can be reached"
                        ) from None


# --- parity with `transformers` -------------------------------------------------------------------


@torch.no_grad()
def distance(net: Model) -> float:
    """Mean absolute difference in nats between log-probabilities by `transformers` alone and by our
    attention function, where some tokens follow a segment and some are beside a shorter row.
    """
    tokens = _tokens(net)
    first, segment = net.read(tokens[:, :4])
    there = torch.ones(2, 4, dtype=torch.bool, device=net.device)
    there[1, 1:] = False
    rest, _ = net.read(tokens[:, 4:].repeat(2, 1), there, [segment], keep=False)
    ours = net.logits(torch.cat([first, rest[:1]], 1))
    return _apart(ours, _theirs(net, tokens))


@torch.no_grad()
def rounding(net: Model) -> float:
    """The distance that rounding alone makes: between `transformers` and itself, where each number
    of the embeddings is changed by one unit in the last place.
    """
    generator = torch.Generator().manual_seed(0)

    def nudge(layer: nn.Module, given: object, found: Tensor) -> Tensor:
        sign = torch.randint(0, 2, found.shape, generator=generator).to(found) * 2 - 1
        return found * (1 + sign * torch.finfo(found.dtype).eps)

    tokens = _tokens(net).repeat(2, 1)
    exact = _theirs(net, tokens)
    hook = net.model.get_input_embeddings().register_forward_hook(nudge)
    try:
        return _apart(_theirs(net, tokens), exact)
    finally:
        hook.remove()


def limit(net: Model) -> float:
    """The largest distance in nats that rounding explains."""
    return 1e-3 if net.dtype == torch.float32 else SLACK * rounding(net)


def _tokens(net: Model) -> Tensor:
    """(1, PROBED): tokens from the whole vocabulary, as the first ones are often special."""
    words = net.words or len(net.head)
    return (torch.arange(1, PROBED + 1, device=net.device) * (words // (PROBED + 1)))[None]


def _theirs(net: Model, tokens: Tensor) -> Tensor:
    """Logits (N, T, V) of tokens (N, T), by the attention that is written out."""
    with net.attending("eager"):
        return net.model(input_ids=tokens, use_cache=False).logits[..., :net.words]


def _apart(ours: Tensor, theirs: Tensor) -> float:
    pair = [at_least_float32(logits).log_softmax(-1) for logits in (ours, theirs)]
    return float((pair[0] - pair[1]).abs().mean())
