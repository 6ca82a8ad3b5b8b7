"""Speed and size of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnxruntime

from inc_autotune.core.analysis import timing
from inc_autotune.ort_ext.graph import GraphModel, embedded_bytes


def session_clock(sessions: Sequence[onnxruntime.InferenceSession]) -> Callable[[], float]:
    """The clock for sessions: CPU time of this thread if all sessions compute in this thread alone, else wall time."""
    threads = {session.get_session_options().intra_op_num_threads for session in sessions}
    return timing.clock_of(1 if threads == {1} else 0)


def weight_bytes(model: GraphModel) -> int:
    """Bytes of the model as a file: the weights and a small rest."""
    return embedded_bytes(model)
