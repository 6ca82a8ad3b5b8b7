"""Killing of processes at random moments, and looking at what they leave."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable


def kill_at_random(
    work: Callable[[], object], check: Callable[[], object], *, times: int = 20, seconds: tuple[float, float]
) -> int:
    """Let a child repeat its work, kill it, look; again and again.

    Args:
        work: what a child does over and over; it must not need threads of this process.
        check: looks at what it left, in this process.
        times: number of children.
        seconds: a child lives at least and at most so long after it has done its work once.

    Returns:
        How many were killed; the others had ended by themselves, which none should.
    """
    generator, killed = random.Random(0), 0
    for _ in range(times):
        reads, writes = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                while True:
                    work()
                    os.write(writes, b".")
            finally:
                os._exit(1)
        os.close(writes)
        assert os.read(reads, 1) == b".", "the child failed"
        time.sleep(generator.uniform(*seconds))
        os.kill(process, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(process, 0)[1])
        os.close(reads)
        check()
    return killed
