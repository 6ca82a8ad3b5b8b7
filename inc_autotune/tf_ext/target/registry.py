"""Which operators this TensorFlow has a kernel of."""

from __future__ import annotations

from functools import cache

from tensorflow.python.framework import kernels as registry


@cache
def has_cpu_kernel(op: str) -> bool:
    """Whether an operator of this name, which may be internal to TensorFlow, can be computed here at all."""
    found = registry.get_registered_kernels_for_op(op).kernel
    return any(kernel.device_type == "CPU" and not kernel.label for kernel in found)
