"""One input of a kind, and how the library took it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from inc_autotune.core.errors import AutotuneError

Answer = Literal["refused", "right", "wrong", "raw"]

Attempt = Callable[[Random], None]
"""Makes an input and uses it. It returns where the input was taken and the result is right."""

KINDS = {
    "capability": "core_kinds",
    "recipe": "core_kinds",
    "torch_recipe": "torch_kinds",
    "torch_folder": "torch_kinds",
    "torch_config": "torch_kinds",
    "onnx_bytes": "ort_kinds",
    "onnx_structure": "ort_kinds",
    "onnx_recipe": "ort_kinds",
    "onnx_load": "ort_kinds",
    "graph_def": "tf_kinds",
    "saved_model": "tf_kinds",
    "tf_recipe": "tf_kinds",
    "tf_load": "tf_kinds",
}
"""Kinds of inputs, and the modules that make them by a function of the same name."""


LARGEST_EXACT = 1e6
"""Weights and outputs that are compared: no grid of integers holds a weight of 1e38 and the others beside it."""


def are_extreme(weights: Iterable[Any]) -> bool:
    """Whether some weight is not finite, or above `LARGEST_EXACT`."""
    floats = [each for each in weights if each.dtype.kind == "f" and each.size]
    return not all(bool((abs(each) < LARGEST_EXACT).all()) for each in floats)


class WrongResultError(AssertionError):
    """An input was taken, and the result is not right."""


class Outcome(NamedTuple):
    """How one input was taken.

    Args:
        answer: refused with an error of the library, right, wrong, or raw: an error of others.
        detail: of an answer that must not be.
    """

    answer: Answer
    detail: str = ""


def attempt_of(kind: str, folder: Path) -> Attempt:
    """What tries inputs of a kind; files go to an empty folder."""
    make: Callable[[Path], Attempt] = getattr(import_module(f"tests.fuzz.{KINDS[kind]}"), kind)
    return make(folder)


def outcome(attempt: Attempt, kind: str, seed: int, index: int) -> Outcome:
    """Try one input; the same kind, seed and index make the same one."""
    try:
        attempt(Random(f"{kind} {seed} {index}"))
    except WrongResultError as error:
        return Outcome("wrong", str(error))
    except AutotuneError:
        return Outcome("refused")
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [each for each in frames if "inc_autotune" in each.filename]
        places = [f"{Path(each.filename).name}:{each.lineno}" for each in (*ours[-2:], frames[-1])]
        return Outcome("raw", f"{type(error).__name__}: {str(error)[:200]!r} at {' < '.join(reversed(places))}")
    return Outcome("right")
