"""Settings of all tests that use ONNX Runtime.

With `INC_AUTOTUNE_TEST_WITHOUT_VNNI=1` the library believes that this processor has no VNNI: onnxruntime has no switch
for its instruction set. Whether it is so or only believed to be, no session may then get a product that saturates.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inc_autotune.ort_ext import adaptor
from inc_autotune.ort_ext.graph.graph_model import GraphModel
from inc_autotune.ort_ext.model import sessions, unsigned_weights
from tests.ort.processors import HAS_VNNI, pretend, wide_products

WITHOUT_VNNI = os.environ.get("INC_AUTOTUNE_TEST_WITHOUT_VNNI") == "1"


@pytest.fixture(autouse=True, scope="session")
def equal_times() -> Iterator[None]:
    """Every call takes the same time on the clock of sessions, so that no test depends on how fast a machine is."""

    def clock(*_: Any) -> Callable[[], float]:
        ticks = itertools.count()
        return lambda: next(ticks) / 2**20

    with pytest.MonkeyPatch.context() as patch:
        for name in ("session_clock", "wall_clock"):
            patch.setattr(adaptor, name, clock)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_saturation() -> Iterator[None]:
    """Where the library believes that products saturate, no session has such products."""
    if HAS_VNNI and not WITHOUT_VNNI:
        yield
        return
    convert = sessions.with_unsigned_weights

    def checked(model: GraphModel) -> GraphModel:
        result = convert(model)
        believed = unsigned_weights.saturates("MatMul", "uint8", "int8")
        assert not (believed and wide_products(result))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "with_unsigned_weights", checked)
        if HAS_VNNI:
            pretend(patch, vnni=False)
        yield
