"""The interface of a framework for the commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inc_autotune.core.analysis import Inspection
from inc_autotune.core.arrays import Array
from inc_autotune.core.result import Comparison

Item = Array | Mapping[str, Array]
"""One batch of inputs: the only one, or all by name."""

Run = Callable[[Item], list[Array]]
"""Computes the outputs for a batch."""


@dataclass(frozen=True)
class ImageInput:
    """What a model wants of a batch of images, as far as it tells.

    Args:
        size: height and width in pixels; None where any will do, or the model does not tell.
        channels_first: whether a batch is [N, channels, height, width], not [N, height, width, channels].
        channels: 1 for grey, 3 for red, green and blue.
        is_float: whether values are real numbers; whole ones from 0 to 255 else.
    """

    size: tuple[int, int] | None
    channels_first: bool
    channels: int = 3
    is_float: bool = True


@dataclass(frozen=True)
class ModelInputs:
    """What a model reads.

    Args:
        names: of the inputs in their order; empty where they are not known.
        image: what its first input wants of images; by default, what PyTorch's layers take.
    """

    names: Sequence[str]
    image: ImageInput = ImageInput(None, channels_first=True)


class Framework(ABC):
    """What commands do with models of one framework."""

    name: str
    data_argument: str = "dataloader"
    """The framework's word in `calib_dataloader` and `eval_dataloader`."""
    output: str
    """What `--output` names, for people."""

    @abstractmethod
    def inspect(self, model: Any) -> Inspection:
        """What each operator could become."""

    @abstractmethod
    def autotune(self, model: Any, **arguments: Any) -> Any:
        """The extension's `autotune`; `calib_data` and `eval_data` stand for the framework's own words."""

    @abstractmethod
    def apply_recipe(self, model: Any, recipe: Path) -> Any:
        """The extension's `apply_recipe`."""

    @abstractmethod
    def compare(self, model: Any, quantized: Any, data: Any, samples: int) -> Comparison:
        """The extension's `compare`.

        Args:
            model: the fp32 model.
            quantized: what `apply_recipe` returned, or `load_model` read.
            data: what `compare` takes.
            samples: how many are compared.

        Raises:
            UsageError: the quantized model was not written by this library.
        """

    @abstractmethod
    def check_output(self, path: Path) -> None:
        """Refuse, before any work, what `save` could not write to.

        Raises:
            UsageError: the path does not suit the framework.
        """

    @abstractmethod
    def save(self, tuned: Any, path: Path, calib_data: Any = None) -> None:
        """Write the deployable form of a tuned model."""

    @abstractmethod
    def runner(self, model: Any, threads: int | None = None) -> Run:
        """What computes the outputs of a model, fp32 or quantized, as it is deployed.

        Args:
            model: what `load_model` read, or a tuned model.
            threads: of the computation; None: what the framework chooses.
        """

    @abstractmethod
    def inputs(self, model: Any) -> ModelInputs:
        """What the model reads; for that a file of a model is read as a whole."""


def outputs_in_order(result: Any) -> list[Array]:
    """Arrays in what a model returned: tensors, arrays, and containers of them in their order."""
    if result is None:
        return []
    if isinstance(result, Mapping):
        return [array for value in result.values() for array in outputs_in_order(value)]
    if isinstance(result, list | tuple):
        return [array for value in result for array in outputs_in_order(value)]
    if hasattr(result, "detach"):
        return [np.asarray(result.detach().to("cpu"))]
    return [np.asarray(result)] if hasattr(result, "shape") else []


def image_input_of(shape: Sequence[int | str | None], is_float: bool) -> ImageInput:
    """What the shape of a batch tells of images: where the channels are, and the size."""
    known = [each if isinstance(each, int) and each > 0 else None for each in shape]
    first, second, third = [*known, None, None, None, None][1:4]
    channels_first = first in (1, 3) or third not in (1, 3)
    channels, height, width = (first, second, third) if channels_first else (third, first, second)
    size = None if height is None or width is None else (height, width)
    return ImageInput(size, channels_first, channels or 3, is_float)
