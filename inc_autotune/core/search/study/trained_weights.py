"""What trainings came to: kept in files beside a storage, so that a crash loses none; else in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inc_autotune.core.errors import ArgumentError, QuantizationError
from inc_autotune.core.files import Arrays, read_arrays, write_arrays, writing

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
_INTERRUPTED = ".interrupted"
_OPERATORS, _LABEL = "operators", "label"


@dataclass(frozen=True)
class TrainedWeights:
    """What one training came to.

    Args:
        arrays: as in `StudentState`.
        operators: names of the operators that were trained.
        label: what was trained, for people.
    """

    arrays: Arrays
    operators: tuple[str, ...] = ()
    label: str = ""


class WeightsStore:
    """Trained weights by key.

    Args:
        folder: where files are written; None: everything stays in memory.
        prefix: how names of files begin, the study's name.
    """

    def __init__(self, folder: Path | None, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._kept: dict[str, TrainedWeights] = {}

    def path(self, key: str) -> Path | None:
        """The file of the weights of `key`; None in memory."""
        return None if self._folder is None else self._folder / f"{self._prefix}-{key}{SUFFIX}"

    def keep(self, key: str, weights: TrainedWeights) -> None:
        """Keep what a training came to.

        Raises:
            ArgumentError: the file cannot be written.
        """
        path = self.path(key)
        if path is None:
            self._kept[key] = weights
            return
        _write(path, weights)

    def get(self, key: str) -> TrainedWeights | None:
        """What was kept under `key`, by whichever process; None if nothing was."""
        path = self.path(key)
        return self._kept.get(key) if path is None else _read(path)

    def require(self, key: str) -> TrainedWeights:
        """What was kept under `key`.

        Raises:
            QuantizationError: its file is gone.
        """
        weights = self.get(key)
        if weights is None:
            raise QuantizationError(
                f"storage: the trained weights of a finished trial are gone: {self.path(key)}. Put the file back, or "
                "give another study_name to train anew."
            )
        return weights

    def keep_interrupted(self, key: str, weights: TrainedWeights) -> None:
        """Keep what a training that did not end had come to, for the next one of `key` to start from."""
        path = self.path(key)
        if path is not None:
            _write(self._interrupted(path), weights)
            logger.warning("what was trained so far is kept: %s", self._interrupted(path))

    def get_interrupted(self, key: str) -> TrainedWeights | None:
        """What `keep_interrupted` kept; None if nothing, or it cannot be read."""
        path = self.path(key)
        try:
            return None if path is None else _read(self._interrupted(path))
        except ArgumentError:
            logger.warning("what an interrupted training left cannot be read", exc_info=True)
            return None

    def drop_interrupted(self, key: str) -> None:
        """Forget what `keep_interrupted` kept: the training has ended."""
        path = self.path(key)
        if path is not None:
            self._interrupted(path).unlink(missing_ok=True)

    def _interrupted(self, path: Path) -> Path:
        return path.with_name(path.name.removesuffix(SUFFIX) + _INTERRUPTED + SUFFIX)


def _write(path: Path, weights: TrainedWeights) -> None:
    with writing(path, "storage"):
        path.parent.mkdir(parents=True, exist_ok=True)
    about = {_OPERATORS: json.dumps(weights.operators), _LABEL: weights.label}
    write_arrays(path, weights.arrays, about, "storage")


def _read(path: Path) -> TrainedWeights | None:
    try:
        arrays, about = read_arrays(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArgumentError(f"storage: {path} cannot be read: {error}.") from error
    operators: Sequence[str] = json.loads(about.get(_OPERATORS, "[]"))
    return TrainedWeights(arrays, tuple(operators), about.get(_LABEL, ""))


def joined(weights: TrainedWeights, start: TrainedWeights | None) -> TrainedWeights:
    """Weights together with the operators that were trained before them."""
    if start is None:
        return weights
    return replace(weights, operators=tuple(dict.fromkeys((*start.operators, *weights.operators))))
