"""Settings of all tests that use TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

MISSING = find_spec("tensorflow") is None

if not MISSING:
    import tensorflow as tf

    # Models of a test are so small that more threads only wait for each other.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


class SkippedModule(pytest.Module):
    """A test file that is not even imported."""

    def collect(self) -> Iterable[pytest.Item]:
        pytest.skip("needs TensorFlow: pip install 'inc-autotune[tf]'", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return SkippedModule.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(autouse=True, scope="module")
def no_measured_units() -> Iterator[None]:
    """On models as small as those of a test only chance decides which operator is faster in integers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inc_autotune.tf_ext.adaptor.measure_units", lambda *arguments: {})
        yield


@pytest.fixture(autouse=True, scope="module")
def equal_times() -> Iterator[None]:
    """Every call takes the same time on the clock of whole models, so that no test depends on how fast a machine is."""

    def clock() -> Callable[[], float]:
        ticks = itertools.count()
        return lambda: next(ticks) / 2**20

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inc_autotune.tf_ext.adaptor.clock", clock)
        yield
