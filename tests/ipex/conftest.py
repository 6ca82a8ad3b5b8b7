"""Settings of all tests that use the extension."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from torch import nn

from inc_autotune.torch_ext.ipex.adaptor import IpexAdaptor
from tests.torch.conftest import one_thread

__all__ = ["one_thread"]


@pytest.fixture(autouse=True)
def equal_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model be as fast as every other: on a busy machine all of a small one seems slow.

    It is measured all the same: that must not fail, nor leave a trace.
    """
    measure = IpexAdaptor.measure

    def equal(adaptor: IpexAdaptor, models: Sequence[nn.Module]) -> Sequence[float] | None:
        seconds = measure(adaptor, models)
        return None if seconds is None else [1.0 for _ in seconds]

    monkeypatch.setattr(IpexAdaptor, "measure", equal)
    monkeypatch.setattr(IpexAdaptor, "measure_threads", lambda *_: None)
