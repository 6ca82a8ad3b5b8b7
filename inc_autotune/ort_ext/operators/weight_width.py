"""How many bits of a weight the integer products of a model can take."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.ort_ext.graph import Graph, is_depthwise
from inc_autotune.ort_ext.operators.discovery import Operator
from inc_autotune.ort_ext.target import CPU_BACKEND, KERNELS, Backend, Kernel, saturates

logger = logging.getLogger(__name__)

FULL_BITS = 8


def reduced_operators(
    graph: Graph, operators: Mapping[str, Operator], configs: Mapping[str, OpConfig], backend: Backend
) -> frozenset[str]:
    """Names of the operators whose weights get one bit less, since this processor's products of 8 bits saturate.

    Args:
        graph: the fp32 model.
        operators: of that graph.
        configs: by name of the operators that leave fp32.
        backend: the execution provider the model is for; of one that does not compute on this processor, none.
    """
    if not backend.on_cpu:
        return frozenset()
    return frozenset(
        name
        for name, config in configs.items()
        if _multiplies_full_bits(config) and _saturates(kernel_of(graph, operators[name]), config, backend)
    )


def widest_product(
    graph: Graph, operators: Mapping[str, Operator], configs: Mapping[str, OpConfig], reduced: frozenset[str]
) -> int | None:
    """Bits of the widest weight that some processor's integer products may saturate with.

    That is, of the signed ones but for depthwise convolutions.

    Args:
        graph: the fp32 model.
        operators: of that graph.
        configs: by name of the operators that leave fp32.
        reduced: names of those whose weights have one bit less than their dtype.

    Returns:
        None where there is no such weight.
    """
    bits = [
        integer_type(config.weight.dtype).bits - (name in reduced)
        for name, config in configs.items()
        if config.approach in ("static", "dynamic")
        and integer_type(config.weight.dtype).signed
        and kernel_of(graph, operators[name]) != "depthwise Conv"
    ]
    return max(bits, default=None)


def warn_of_width(bits: int, backend: Backend) -> None:
    """Say that the weights of a model are too wide for this processor.

    Args:
        bits: see `widest_product`.
        backend: the execution provider the model is for.
    """
    if bits < FULL_BITS or not backend.on_cpu or not any(saturates(kernel, "uint8", "int8") for kernel in KERNELS):
        return
    if backend == CPU_BACKEND:
        logger.warning(
            "the weights of this model hold 8 bits, whose products saturate on this processor, since it has no VNNI. "
            "ort_ext.session() computes them exactly all the same, by slower kernels. Before you make an "
            "onnxruntime.InferenceSession of the file, call "
            "session_options.add_session_config_entry('session.x64quantprecision', '1'). "
            "Tuned on this processor the model gets weights of 7 bits, which are exact and fast everywhere."
        )
    else:
        logger.warning(
            "the weights of this model hold 8 bits, whose products may saturate in %s on this processor, since it has "
            "no VNNI. Tuned on this processor the model gets weights of 7 bits, which are exact everywhere.",
            backend.provider,
        )


def kernel_of(graph: Graph, operator: Operator) -> Kernel:
    """The kernel that computes an operator in integers."""
    if operator.type == "LSTM":
        return "LSTM"
    if operator.type == "ConvTranspose":
        return "Conv"
    if operator.type != "Conv":
        return "MatMul"
    depthwise = is_depthwise(graph.by_name[operator.name], graph.shape(operator.weight) or ())
    return "depthwise Conv" if depthwise else "Conv"


def _multiplies_full_bits(config: OpConfig) -> bool:
    return config.approach in ("static", "dynamic") and integer_type(config.weight.dtype).bits == FULL_BITS


def _saturates(kernel: Kernel, config: OpConfig, backend: Backend) -> bool:
    if backend == CPU_BACKEND:
        return saturates(kernel, _stored(config.activation), _stored(config.weight))
    # Other libraries have other kernels; what is common to them is the processor.
    return saturates("MatMul", "uint8", "int8")


def _stored(config: TensorConfig) -> str:
    """The dtype that holds the integers of a narrower one."""
    return "int8" if integer_type(config.dtype).signed else "uint8"
