"""The files of a tokenizer or processor."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inc_autotune.core.arguments import check_path, shown
from inc_autotune.core.errors import ArgumentError, foreign_errors_as
from inc_autotune.core.result.model_folder import TOKENIZER, all_files, named_files


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """Contents by file name.

    Args:
        tokenizer: something with `save_pretrained`, a folder, or None for no files.

    Raises:
        ArgumentError: it is neither, or the folder has none of the files, or the tokenizer cannot be saved.
    """
    if tokenizer is None:
        return {}
    if hasattr(tokenizer, "save_pretrained"):
        return _saved(tokenizer)
    folder = check_path(tokenizer, "tokenizer", allowed="a tokenizer or processor, or the folder that holds its files")
    found = named_files(folder, TOKENIZER)
    if not found:
        raise ArgumentError(
            f"tokenizer={shown(tokenizer)}: holds no files of a tokenizer. Allowed: a tokenizer or processor, or the "
            f"folder that holds its files, such as {TOKENIZER[0]}."
        )
    return found


def _saved(tokenizer: Any) -> dict[str, bytes]:
    with TemporaryDirectory() as temporary, foreign_errors_as(_as_argument_error):
        folder = Path(temporary)
        tokenizer.save_pretrained(folder)
        return all_files(folder)


def _as_argument_error(error: BaseException) -> ArgumentError:
    return ArgumentError(
        f"tokenizer: its save_pretrained raised {type(error).__name__}: {error}. Give the folder of its files instead."
    )
