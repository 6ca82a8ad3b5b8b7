"""What a library must leave as it found it: the settings of the process."""

from __future__ import annotations

import faulthandler
import gc
import locale
import logging
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna


def process_state() -> dict[str, Any]:
    """Settings by name, as values that can be compared."""
    state: dict[str, Any] = {
        "working directory": os.getcwd(),
        "environment": dict(os.environ),
        "umask": _umask(),
        "locale": locale.setlocale(locale.LC_ALL),
        "path of modules": list(sys.path),
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "standard streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks of errors": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "hooks of traces": (sys.gettrace(), sys.getprofile()),
        "filters of warnings": list(warnings.filters),
        "what shows warnings": warnings.showwarning,
        "handlers of signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "log level": logging.getLogger().level,
        "log handlers": list(logging.getLogger().handlers),
        "disabled logs": logging.root.manager.disable,
        "generator of Python": random.getstate(),
        "generator of NumPy": np.random.get_state()[1].tolist(),
        "errors of NumPy": np.geterr(),
        "print options of NumPy": np.get_printoptions(),
        "timeout of sockets": socket.getdefaulttimeout(),
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "fault handler": faulthandler.is_enabled(),
        "processors": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        "verbosity of Optuna": optuna.logging.get_verbosity(),
        "threads": {(each.name, type(each).__module__) for each in threading.enumerate()},
    }
    return {**state, **_torch(), **_tensorflow()}


def run_in_threads(work: Callable[[], object], count: int = 3) -> list[BaseException]:
    """Run the same in several threads at once, and return what they raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run() -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return errors


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _torch() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "fast path of attention": torch.backends.mha.get_fastpath_enabled(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "engine of torch": torch.backends.quantized.engine,
        "generator of torch": torch.get_rng_state().tolist(),
        "default dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "precision of products": torch.get_float32_matmul_precision(),
    }


def _tensorflow() -> dict[str, Any]:
    tf = sys.modules.get("tensorflow")
    if tf is None:
        return {}
    return {
        "eager": (tf.executing_eagerly(), tf.config.functions_run_eagerly()),
        "threads of TensorFlow": (
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        ),
        "default graph": tf.compat.v1.get_default_graph(),
        "Keras": (tf.keras.backend.floatx(), tf.keras.config.dtype_policy().name),
    }
