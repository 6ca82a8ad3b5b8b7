"""Settings of all tests that use torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from inc_autotune.torch_ext.target import saturation
from tests.torch.small_models import fix_speeds


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models of a test are so small that more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def speed_decides_nothing() -> Iterator[None]:
    """No test depends on how fast this machine is, or how busy, nor does a model that the tests of a module share."""
    with pytest.MonkeyPatch.context() as patch:
        fix_speeds(patch)
        yield


@pytest.fixture
def eight_bit_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every processor, for tests of what a bit less changes. Kernels that saturate are not used then."""
    monkeypatch.setattr(saturation, "needs_reduced_range", lambda *_: False)
