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
from inc_autotune.distributed.team import Helpers, join

LOCAL = "local"
"""The address of a cluster that is started on this machine, and ends with the run."""

PATIENCE = 10.0
"""Seconds to wait for a cluster to answer."""

_HOST_AND_PORT = re.compile(r"(ray://)?(?P<host>[^:/]+|\[[^\]]+\]):(?P<port>\d+)")


class RayWorkers(Helpers):
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
        self.count = count
        self._tasks: list[tuple[Any, RunContext]] = []
        try:
            self._call = cloudpickle.dumps(call)
        except Exception as error:  # whatever an object's own way to be sent raises
            raise ArgumentError(f"workers={count + 1}: the call cannot be sent to other processes: {error}.") from error
        self._owns_cluster = connect(ray, address, count)
        machines = {each["NodeManagerAddress"] for each in ray.nodes() if each["Alive"]}
        if len(machines) > 1 and local_file(storage) is not None:
            self._leave()
            raise ArgumentError(
                f"storage: is a file of this machine, and the cluster has {len(machines)}. Give a database that all "
                "reach, such as 'postgresql://user:password@host/tuning'."
            )

    def start(self, contexts: Sequence[RunContext]) -> None:
        # In a list, a reference stays one: what it stands for is fetched once the task can import the user's modules.
        call = self._ray.put(self._call)
        task = self._ray.remote(_work).options(max_retries=0)
        paths = [each or os.getcwd() for each in sys.path]
        files: dict[Path, Any] = {}
        for context in contexts:
            file, given = context.calibration, [call]
            if file is not None and file.exists():
                if file not in files:
                    files[file] = self._ray.put(file.read_bytes())
                given.append(files[file])
            self._tasks.append((task.remote(given, replace(context, calibration=None), paths), context))

    def end(self) -> Sequence[str]:
        try:
            return super().end()
        finally:
            self._tasks.clear()
            self._leave()

    def ended(self, grace: float | None) -> Sequence[str]:
        problems = []
        if self._tasks:
            self._ray.wait([task for task, _ in self._tasks], num_returns=len(self._tasks), timeout=grace)
        for number, (task, context) in enumerate(self._tasks, start=2):
            if not self._ray.wait([task], timeout=0)[0]:
                self._ray.cancel(task, force=True)
                continue
            try:
                said = self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if isinstance(said, bytes) and context.calibration is not None:
                context.calibration.write_bytes(said)
            elif said is not None:
                problems.append(f"worker {number} ended early: {said}")
        self._tasks.clear()
        return problems

    def _leave(self) -> None:
        if self._owns_cluster:
            self._ray.shutdown()


def connect(ray: Any, address: str, count: int) -> bool:
    """Join a cluster, or start one on this machine with so many CPUs; where the process belongs to one, that is used.

    Args:
        ray: the library.
        address: as `RayWorkers` takes it.
        count: of the tasks that will run at once.

    Returns:
        Whether the process did not belong to a cluster before.

    Raises:
        ArgumentError: the address is none, or nothing answers there, or the process belongs to another cluster.
    """
    found = _HOST_AND_PORT.fullmatch(address)
    allowed = "Allowed: 'local', 'auto', 'host:port' or 'ray://host:port' of a cluster that runs."
    if found is None and address not in (LOCAL, "auto"):
        raise ArgumentError(f"ray={address!r}: is no address. {allowed}")
    try:
        if found is not None:
            # Ray itself would wait for minutes.
            socket.create_connection((found["host"].strip("[]"), int(found["port"])), PATIENCE).close()
        if ray.is_initialized():
            used = ray.get_runtime_context().gcs_address
            if found is not None and not address.startswith("ray://") and address != used:
                raise ArgumentError(
                    f"ray={address!r}: this process belongs to the cluster {used!r} already. Call ray.shutdown() "
                    "first, or give 'auto'."
                )
            return False
        # A local cluster has as many CPUs as are asked for, or tasks would wait for each other.
        given = {"num_cpus": count} if address == LOCAL else {}
        ray.init(address=address, include_dashboard=None, log_to_driver=False, configure_logging=False, **given)
        return True
    except ArgumentError:
        raise
    except Exception as error:  # Ray raises errors of several libraries
        raise ArgumentError(f"ray={address!r}: the cluster does not answer: {error}. {allowed}") from error


def _work(given: Sequence[Any], context: RunContext, paths: Sequence[str]) -> str | bytes | None:
    """One helper, on a machine of the cluster; returns what it calibrated, if that was all, or what went wrong."""
    import ray
    from ray import cloudpickle

    sys.path.extend(each for each in paths if each not in sys.path)
    try:
        call = cloudpickle.loads(ray.get(given[0]))
        with tempfile.TemporaryDirectory(prefix="inc-autotune-") as folder:
            file = Path(folder) / "calibration.safetensors"
            if len(given) > 1:
                file.write_bytes(ray.get(given[1]))
            elif not context.calibrates_only:
                join(call, context)
                return None
            join(call, replace(context, calibration=file))
            return file.read_bytes() if context.calibrates_only else None
    except Exception as error:  # whatever the user's evaluation raises; the leader says it
        return f"{type(error).__name__}: {error}"
