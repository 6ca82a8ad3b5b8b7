"""Arrays of NumPy: `.npy` for a model with one input, `.npz` with an array for each input, and 'labels'."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from inc_autotune.command_line.datasets.batches import Batches
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks import Item
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import did_you_mean

LABELS = ("labels", "label", "y")


def open_arrays(path: Path, option: str, input_names: Sequence[str], batch_size: int) -> Batches:
    """The arrays of a file, samples first.

    Args:
        path: of a `.npy` or `.npz` file.
        option: that named it, for messages.
        input_names: of the model; empty where they are not known.
        batch_size: samples in a batch.

    Raises:
        UsageError: the file is damaged, needs pickle, or its arrays are not those of the model.
    """
    arrays = _read(path, option)
    labels = next((arrays.pop(name) for name in LABELS if name in arrays and name not in input_names), None)
    if not arrays:
        what = "no arrays" if labels is None else "labels only"
        raise UsageError(f"{option} {str(path)!r}: holds {what}. Add an array for each input of the model.")
    alone = len(arrays) == 1 and (len(input_names) == 1 or path.suffix == ".npy" or not input_names)
    unknown = [] if alone or not input_names else [name for name in arrays if name not in input_names]
    if unknown:
        hint = did_you_mean(unknown[0], input_names)
        raise UsageError(
            f"{option} {str(path)!r}: the model has no input {unknown[0]!r}.{hint} Allowed: "
            f"{', '.join(map(repr, input_names))}, and 'labels'."
        )
    counts = {name: len(value) if value.ndim else 0 for name, value in arrays.items()}
    if labels is not None:
        counts["labels"] = len(labels) if labels.ndim else 0
    samples = next(iter(counts.values()))
    if samples == 0 or len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(
            f"{option} {str(path)!r}: every array needs the same number of samples, on its first axis: {told}."
        )

    def read() -> Iterator[tuple[Item, Array | None]]:
        for start in range(0, samples, batch_size):
            part = slice(start, start + batch_size)
            inputs = {name: value[part] for name, value in arrays.items()}
            item: Item = next(iter(inputs.values())) if alone else inputs
            yield item, None if labels is None else labels[part]

    return Batches(str(path), read, samples, labels is not None)


def _read(path: Path, option: str) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"input": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{option} {str(path)!r}: NumPy cannot read it: {error}. Write it with numpy.savez(path, **inputs), "
            "without arrays of objects."
        ) from error
