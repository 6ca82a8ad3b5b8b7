"""What an example is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """A model with one kind of operator.

    Args:
        operator: as users write it.
        neural_compressor: what Neural Compressor 2.6 made of it, by the capability file that it shipped.
        build: makes the fp32 model.
        items: makes calibration data.
    """

    operator: str
    neural_compressor: str
    build: Callable[[], Any]
    items: Callable[[], Sequence[Any]]
