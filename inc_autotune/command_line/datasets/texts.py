"""Tables of texts, `.csv`, `.tsv` or `.jsonl`, with a tokenizer of the transformers library."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from inc_autotune.command_line.datasets.batches import Batches
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks import Item
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import did_you_mean

SUFFIXES = (".csv", ".jsonl", ".tsv")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LONGEST = 512
"""Tokens where a tokenizer names no limit."""


class TextOptions(BaseModel):
    """How texts become inputs.

    Args:
        column: with the texts.
        label_column: with labels, whole numbers or names of the model's classes; without one there are none.
        tokenizer: folder of a tokenizer of the transformers library; None: the folder of the model.
        max_length: tokens; what is longer is cut off. None: the tokenizer's limit, or 512.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = "text"
    label_column: str = "label"
    tokenizer: str | None = None
    max_length: Annotated[int, Field(gt=0)] | None = None


def open_texts(
    path: Path, option: str, folder: Path | None, input_names: Sequence[str], options: TextOptions, batch_size: int
) -> Batches:
    """The texts of a table, tokenized; shorter ones of a batch are padded.

    Args:
        path: of a table with a header, or of one JSON object a line.
        option: that named it, for messages.
        folder: of the model, where it may hold its tokenizer.
        input_names: of the model; empty where they are not known. What else the tokenizer gives is left out.
        options: what the user tells.
        batch_size: samples in a batch.

    Raises:
        UsageError: a column is missing, a label is neither a whole number nor a class of the model, or there is no
            tokenizer.
    """
    rows = _rows(path, option)
    texts = _column(rows, options.column, path, option, "--text-column")
    labels = None
    if options.label_column in rows[0]:
        found = _column(rows, options.label_column, path, option, "--label-column")
        classes = _classes(folder)
        labels = np.array([_label(each, classes, f"{option} {str(path)!r}") for each in found])
    tokenizer = _tokenizer(options.tokenizer, folder, option, path)
    limit = options.max_length or min(int(tokenizer.model_max_length), LONGEST)

    def read() -> Iterator[tuple[Item, Array | None]]:
        for start in range(0, len(texts), batch_size):
            part = slice(start, start + batch_size)
            tokens = tokenizer(
                [str(each) for each in texts[part]],
                padding=True,
                truncation=True,
                max_length=limit,
                return_tensors="np",
            )
            inputs = {name: value for name, value in tokens.items() if not input_names or name in input_names}
            yield inputs, None if labels is None else labels[part]

    return Batches(str(path), read, len(texts), labels is not None, (f"texts of at most {limit} tokens",))


def _rows(path: Path, option: str) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel begins files with a mark of their order
            if path.suffix in DELIMITERS:
                rows: list[Any] = list(csv.DictReader(file, delimiter=DELIMITERS[path.suffix]))
            else:
                rows = [_parsed(line, number) for number, line in enumerate(file, 1) if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{option} {str(path)!r}: cannot be read: {error}.") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(
            f"{option} {str(path)!r}: holds no rows. Allowed: a header and rows, or one JSON object a line."
        )
    return rows


def _parsed(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def _column(rows: list[dict[str, Any]], name: str, path: Path, option: str, remedy: str) -> list[Any]:
    for number, row in enumerate(rows, 1):
        if row.get(name) is None:
            columns = [str(each) for each in rows[0]]
            if name in columns:
                raise UsageError(f"{option} {str(path)!r}: row {number} has nothing in the column {name!r}.")
            raise UsageError(
                f"{option} {str(path)!r}: row {number} has no {name!r}.{did_you_mean(name, columns)} "
                f"Columns: {', '.join(map(repr, columns))}. Give {remedy}."
            )
    return [row[name] for row in rows]


def _classes(folder: Path | None) -> dict[str, int]:
    """Numbers of classes by name, as the configuration of a model in a folder has them."""
    if folder is None:
        return {}
    with suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
        return {
            str(name): int(number)
            for name, number in json.loads((folder / "config.json").read_bytes())["label2id"].items()
        }
    return {}


def _label(value: Any, classes: dict[str, int], where: str) -> int:
    if isinstance(value, str) and value in classes:
        return classes[value]
    with suppress(TypeError, ValueError, OverflowError):
        number = float(value)
        if number == int(number):
            return int(number)
    names = f", or names of classes of the model: {', '.join(map(repr, classes))}" if classes else ""
    raise UsageError(f"{where}: the label {value!r} is not known. Allowed: whole numbers{names}.")


def _tokenizer(named: str | None, folder: Path | None, option: str, path: Path) -> Any:
    source = Path(named) if named else folder
    if source is None:
        raise UsageError(f"{option} {str(path)!r}: texts need a tokenizer. Give its folder with --tokenizer.")
    try:
        import transformers
    except ImportError as error:
        raise UsageError(f"{option} {str(path)!r}: needs the transformers library: pip install transformers") from error
    if not source.is_dir():
        raise UsageError(f"--tokenizer {str(source)!r}: there is no such folder.")
    try:
        return transformers.AutoTokenizer.from_pretrained(source)
    except Exception as error:  # the library raises what it happens to meet
        raise UsageError(f"--tokenizer {str(source)!r}: {type(error).__name__}: {error}") from error
