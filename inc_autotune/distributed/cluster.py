"""Helpers that are tasks of a Ray cluster."""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.optional import require
from inc_autotune.core.run_context import RunContext
from inc_autotune.core.search.study import local_file
from inc_autotune.distributed.team import join

LOCAL = "local"
"""The address of a cluster that is started on this machine, and ends with the run."""

PATIENCE = 10.0
"""Seconds to wait for a cluster to answer."""

GRACE = 5.0
"""Seconds in which a helper may notice that the run is over."""

_HOST_AND_PORT = re.compile(r"(ray://)?(?P<host>[^:/]+|\[[^\]]+\]):(?P<port>\d+)")


class RayWorkers:
    """Tasks that are given the call, and what calibration found, through Ray's object store: once for each machine.

    The cluster's machines need this library, the call's framework and the user's modules.

    Args:
        call: of `autotune`.
        count: of tasks; each takes one CPU of the cluster.
        address: of the cluster: `local`, `auto` for the one that this machine belongs to, `host:port`, or
            `ray://host:port`.
        storage: of the run, which all machines have to reach.

    Raises:
        MissingDependencyError: Ray is not installed.
        ArgumentError: the cluster does not answer, cannot reach the storage, or the call cannot be sent.
    """

    def __init__(self, call: Callable[[], object], count: int, address: str, storage: str) -> None:
        require("ray", extra="ray")
        import ray
        from ray import cloudpickle

        self._ray: Any = ray
        self._count = count
        self._tasks: list[Any] = []
        try:
            self._call = cloudpickle.dumps(call)
        except Exception as error:  # whatever an object's own way to be sent raises
            raise ArgumentError(f"workers={count + 1}: the call cannot be sent to other processes: {error}.") from error
        self._owns_cluster = not ray.is_initialized()
        if self._owns_cluster:
            _connect(ray, address, count)
        machines = {each["NodeManagerAddress"] for each in ray.nodes() if each["Alive"]}
        if len(machines) > 1 and local_file(storage) is not None:
            self._leave()
            raise ArgumentError(
                f"storage: is a file of this machine, and the cluster has {len(machines)}. Give a database that all "
                "reach, such as 'postgresql://user:password@host/tuning'."
            )

    def start(self, context: RunContext) -> None:
        # In a list, a reference stays one: what it stands for is fetched once the task can import the user's modules.
        given = [self._ray.put(self._call)]
        if context.calibration is not None:
            given.append(self._ray.put(context.calibration.read_bytes()))
        task = self._ray.remote(_work).options(max_retries=0)
        paths = [each or os.getcwd() for each in sys.path]
        self._tasks = [task.remote(given, replace(context, calibration=None), paths) for _ in range(self._count)]

    def end(self) -> Sequence[str]:
        problems = []
        try:
            if self._tasks:
                self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=GRACE)
            for number, task in enumerate(self._tasks, start=2):
                if not self._ray.wait([task], timeout=0)[0]:
                    self._ray.cancel(task, force=True)
                    continue
                try:
                    said = self._ray.get(task)
                except self._ray.exceptions.RayError as error:
                    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
                if said is not None:
                    problems.append(f"worker {number} ended early: {said}")
        finally:
            self._tasks = []
            self._leave()
        return problems

    def _leave(self) -> None:
        if self._owns_cluster:
            self._ray.shutdown()


def _connect(ray: Any, address: str, count: int) -> None:
    found = _HOST_AND_PORT.fullmatch(address)
    allowed = "Allowed: 'local', 'auto', 'host:port' or 'ray://host:port' of a cluster that runs."
    if found is None and address not in (LOCAL, "auto"):
        raise ArgumentError(f"ray={address!r}: is no address. {allowed}")
    try:
        if found is not None:
            # Ray itself would wait for minutes.
            socket.create_connection((found["host"].strip("[]"), int(found["port"])), PATIENCE).close()
        # A local cluster has as many CPUs as are asked for, or tasks would wait for each other.
        given = {"num_cpus": count} if address == LOCAL else {}
        ray.init(address=address, include_dashboard=None, log_to_driver=False, configure_logging=False, **given)
    except Exception as error:  # Ray raises errors of several libraries
        raise ArgumentError(f"ray={address!r}: the cluster does not answer: {error}. {allowed}") from error


def _work(given: Sequence[Any], context: RunContext, paths: Sequence[str]) -> str | None:
    """One helper, on a machine of the cluster; returns what went wrong."""
    import ray
    from ray import cloudpickle

    sys.path.extend(each for each in paths if each not in sys.path)
    try:
        call = cloudpickle.loads(ray.get(given[0]))
        if len(given) < 2:
            join(call, context)
            return None
        with tempfile.TemporaryDirectory(prefix="inc-autotune-") as folder:
            file = Path(folder) / "calibration.safetensors"
            file.write_bytes(ray.get(given[1]))
            join(call, replace(context, calibration=file))
    except Exception as error:  # whatever the user's evaluation raises; the leader says it
        return f"{type(error).__name__}: {error}"
    return None
