"""What lies beside a model in the folders of Hugging Face's libraries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import read_bytes

LARGEST_FILE = 2**28
"""Bytes that a file beside a model may have."""

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
"""Files of a sentence encoder: what its modules are, and how it is used."""

CONFIGURATION = ("config.json", "generation_config.json")
"""Files that say what the model is."""

QUANTIZATION = "quantization_config"
"""In `config.json`: what is said of the weights in a file of PyTorch."""

TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "bpe.codes"),
    *("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "chat_template.json"),
)
"""Files of its tokenizer or processor."""


WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
"""Names of files with weights, as patterns."""


def check_replaceable(folder: Path, argument: str, *, ours: bool) -> None:
    """Refuse to write a quantized model over another one, whose weights nothing would bring back.

    Args:
        folder: that a model is to be written to.
        argument: that named it, for messages.
        ours: whether a model that is there was written by this library.

    Raises:
        ArgumentError: it holds weights that were not written by this library.
    """
    if ours or not folder.is_dir():
        return
    found = next((path.name for pattern in WEIGHTS for path in folder.glob(pattern)), None)
    if found is not None:
        raise ArgumentError(
            f"{argument}={str(folder)!r}: holds weights that were not written by this library, {found!r}, and is not "
            "replaced. Give the name of a new folder, or remove them first."
        )


def named_files(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Contents of those of some files that are there.

    Raises:
        OSError: one cannot be read, or is too large.
    """
    return {name: read_bytes(folder / name, LARGEST_FILE) for name in names if (folder / name).is_file()}


def all_files(folder: Path) -> dict[str, bytes]:
    """Contents of all files of a folder and of those in it, by path in the folder.

    Raises:
        OSError: one cannot be read, or is too large.
    """
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): read_bytes(path, LARGEST_FILE) for path in files}
