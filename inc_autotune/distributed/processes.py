"""Helpers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.run_context import RunContext
from inc_autotune.distributed.team import Helpers, join

MOST_SAID = 1000
"""Characters of an error that the leader is told."""


class LocalProcesses(Helpers):
    """Processes that are given the call as an object, and begin as new programs, since threads survive no fork.

    Args:
        call: of `autotune`.
        count: of processes.

    Raises:
        ArgumentError: the call holds what cannot be sent to another process.
    """

    def __init__(self, call: Callable[[], object], count: int) -> None:
        try:
            ForkingPickler.dumps(call)
        except Exception as error:  # whatever an object's own way to be sent raises
            raise ArgumentError(
                f"workers={count + 1}: the call cannot be sent to other processes: {error}. Functions and classes must "
                "stand at the top of a module, and data be a list, a dataset or a DataLoader; or give ray='local', "
                "which sends functions of any kind."
            ) from error
        self._call = call
        self.count = count
        self._context = multiprocessing.get_context("spawn")
        self._helpers: list[tuple[BaseProcess, Connection]] = []

    def start(self, contexts: Sequence[RunContext]) -> None:
        for context in contexts:
            receiver, sender = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_work, args=(sender, self._call, context), daemon=True)
            process.start()
            sender.close()
            self._helpers.append((process, receiver))

    def ended(self, grace: float | None) -> Sequence[str]:
        problems = []
        for number, (process, receiver) in enumerate(self._helpers, start=2):
            process.join(grace)
            had_ended = process.exitcode is not None
            if not had_ended:
                process.terminate()
                process.join()
            said = _received(receiver)
            if had_ended and (said or process.exitcode):
                problems.append(f"worker {number} ended early: {said or f'exit code {process.exitcode}'}")
        self._helpers.clear()
        return problems


def _received(receiver: Connection) -> Any:
    with receiver:
        try:
            return receiver.recv() if receiver.poll() else None
        except EOFError:
            return None


def _work(sender: Connection, call: Callable[[], object], context: RunContext) -> None:
    try:
        join(call, context)
    except Exception as error:  # whatever the user's evaluation raises; the leader says it
        # What a pipe takes before anybody reads it: the leader waits for the process first.
        sender.send(f"{type(error).__name__}: {error}"[:MOST_SAID])
