"""The verb: `autotune` by several workers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from inc_autotune.core.errors import ArgumentError
from inc_autotune.distributed.cluster import RayWorkers
from inc_autotune.distributed.processes import LocalProcesses
from inc_autotune.distributed.team import Helpers, lead

T = TypeVar("T")


def autotune(
    verb: Callable[..., T],
    model: Any,
    *arguments: Any,
    workers: int = 2,
    ray: str | None = None,
    shards: bool = False,
    storage: str | None = None,
    **named: Any,
) -> T:
    """Tune a model with several workers that share one study: each evaluates other candidates.

    This process is one of them. It calibrates, and the others begin with what it found. A worker that dies loses its
    trial alone, which another one does.

    Args:
        verb: `torch_ext.autotune`, `ort_ext.autotune` or `tf_ext.autotune`.
        model: the fp32 model, sent to each worker once, as all other arguments are.
        *arguments: of the verb.
        workers: how many, this process included.
        ray: address of a Ray cluster: `local`, `auto`, `host:port` or `ray://host:port`; None: processes of this
            machine, which need functions from the top of a module, and a program that guards its start by
            `if __name__ == "__main__":`.
        shards: whether each worker calibrates on a part of the batches, and what they find is merged: ranges,
            histograms and means are exactly those of one process; sampled rows, which only score alphas, are others,
            and second moments differ by rounding. The loader has to yield the same in every process.
        storage: an Optuna storage URL that all workers reach; None: a file that is removed afterwards.
        **named: of the verb.

    Returns:
        What the verb returns; notes of its result name the workers that ended early.

    Raises:
        ArgumentError: `workers` is no number above 0, the call cannot be sent, or the cluster does not answer.
        MissingDependencyError: Ray is not installed.
        AutotuneError: whatever the verb raises.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ArgumentError(f"workers={workers!r}: Allowed: a whole number from 1, this process included.")
    if not isinstance(shards, bool):
        raise ArgumentError(f"shards={shards!r}: Allowed: True or False.")
    if ray is not None and not isinstance(ray, str):
        raise ArgumentError(f"ray={ray!r}: Allowed: an address as text, such as 'local', or None.")
    with ExitStack() as stack:
        if storage is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="inc-autotune-"))
            storage = f"sqlite:///{Path(folder) / 'run.db'}"
        call = partial(verb, model, *arguments, storage=storage, **named)
        if workers == 1:
            return call()
        quiet = partial(call, progress=False)
        others = workers - 1
        helpers: Helpers = LocalProcesses(quiet, others) if ray is None else RayWorkers(quiet, others, ray, storage)
        return lead(call, helpers, shards=shards)
