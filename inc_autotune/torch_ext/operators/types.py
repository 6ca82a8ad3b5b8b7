"""The operator types that can be quantized: how to recognise an operator, and to compute it with given tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune.torch_ext.operators.recurrent import (
    RECURRENT_ATTRIBUTES,
    RECURRENT_CACHES,
    RECURRENT_TYPES,
    compute_recurrent,
    recurrent_biases,
    recurrent_weights,
)

LINEAR_TYPES = ("Linear", "Conv1D")
"""Types that multiply by a matrix along the last dimension. Conv1D is a class of the transformers library."""

CONVOLUTION_TYPES = (*(f"Conv{n}d" for n in (1, 2, 3)), *(f"ConvTranspose{n}d" for n in (1, 2, 3)))

TABLE_TYPES = ("Embedding", "EmbeddingBag")
"""Types that look up rows."""

TYPES_WITH_GROUPS = (*LINEAR_TYPES, "Embedding")
"""Types of which some weights of a row may have a scale of their own."""

TYPES_WITHOUT_RANGE = (*TABLE_TYPES, *RECURRENT_TYPES)
"""Types whose input is not calibrated: indices, and what a recurrent layer rounds at every step. Each stands alone."""

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of weights, and of what is multiplied with them. Scales, statistics and integer forms are computed in float32."""

Tensors = Mapping[str, Tensor | None]
"""Weights and biases of an operator by the names of its parameters."""

_CONVOLUTION_ATTRIBUTES = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "transposed",
    "output_padding",
    "groups",
    "padding_mode",
    "_reversed_padding_repeated_twice",
)


@dataclass(frozen=True)
class Operator:
    """One operator type.

    Args:
        name: as in configurations, such as `Conv2d`.
        output_axis: the weight's axis of output channels.
        input_axis: the weight's axis of input channels where the operator can be smoothed, else None.
        attributes: names of the attributes `compute` reads from the module.
        compute: `compute(module, x, tensors, *arguments)`, the operator with tensors that replace the module's.
        weights: names of the weights that a module has.
        biases: names of the other tensors that `compute` needs.
        caches: names of attributes that hold the parameters a second time.
    """

    name: str
    output_axis: int
    input_axis: int | None
    attributes: tuple[str, ...]
    compute: Callable[..., Any]
    weights: Callable[[Any], tuple[str, ...]] = lambda module: ("weight",)
    biases: Callable[[Any], tuple[str, ...]] = lambda module: ("bias",)
    caches: tuple[str, ...] = ()

    def parameters(self, module: Any) -> tuple[str, ...]:
        """Names of all tensors that `compute` needs."""
        return (*self.weights(module), *self.biases(module))

    def tensors(self, module: nn.Module) -> dict[str, Tensor | None]:
        """A module's own, by name."""
        return {name: module._parameters.get(name) for name in self.parameters(module)}


def operator_type(module: nn.Module) -> str | None:
    """The operator type of a module, or None where the module cannot be quantized.

    None is for: other classes, subclasses with another `forward`, modules with a `forward` set on the instance, weights
    that are no plain parameter of `WEIGHT_DTYPES` (parametrized, pruned, lazy), an `Embedding` with `max_norm` (which
    rewrites the weight), and the output projection of `nn.MultiheadAttention` (torch reads the weight without calling
    the module).
    """
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear) or "forward" in module.__dict__:
        return None
    if getattr(module, "max_norm", None) is not None:
        return None
    for name, base in _base_classes().items():
        if isinstance(module, base) and _inherits_computation(type(module), base):
            return name if _is_plain_float(module, OPERATORS[name]) else None
    return None


def base_type(module: nn.Module) -> str | None:
    """The type of the quantizable class that a module is an instance of, whatever its subclass computes."""
    return next((name for name, base in _base_classes().items() if isinstance(module, base)), None)


def weight_matrix(module: nn.Module) -> Tensor:
    """The weight of an operator of `LINEAR_TYPES` as [out_features, in_features]; Conv1D keeps it transposed."""
    weight = module.get_parameter("weight").detach()
    return weight.t() if type(module).__name__ == "Conv1D" else weight


def _base_classes() -> Mapping[str, type[nn.Module]]:
    # A model with a transformers Conv1D has loaded the module that defines the class: no need to import it here.
    conv1d = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return _TORCH_CLASSES if conv1d is None else {**_TORCH_CLASSES, "Conv1D": conv1d}


def _inherits_computation(cls: type[nn.Module], base: type[nn.Module]) -> bool:
    methods = ("forward", "_conv_forward", "_output_padding", "check_forward_args", "permute_hidden")
    return all(getattr(cls, name, None) is getattr(base, name, None) for name in methods)


def _is_plain_float(module: nn.Module, operator: Operator) -> bool:
    weights = [module._parameters.get(name) for name in operator.weights(module)]
    if not all(map(_is_plain, weights)):
        return False
    biases = {name: module._parameters.get(name) for name in operator.biases(module)}
    if any(bias is None and getattr(module, name, None) is not None for name, bias in biases.items()):
        return False
    return all(bias is None or bias.dtype in WEIGHT_DTYPES for bias in biases.values())


def _is_plain(weight: Tensor | None) -> bool:
    if weight is None or nn.parameter.is_lazy(weight):
        return False
    return weight.layout == torch.strided and weight.dtype in WEIGHT_DTYPES


def _linear(module: Any, x: Tensor, tensors: Any) -> Tensor:
    return F.linear(x, tensors["weight"], tensors["bias"])


def _transposed_weight_linear(module: Any, x: Tensor, tensors: Any) -> Tensor:
    return F.linear(x, tensors["weight"].t(), tensors["bias"])


def _embedding(module: Any, ids: Tensor, tensors: Any) -> Tensor:
    # Not F.embedding, which checks padding_idx, and torch.jit.trace warns of the checks. Index -1 means no padding.
    padding_idx = -1 if module.padding_idx is None else module.padding_idx
    return torch.embedding(tensors["weight"], ids, padding_idx, module.scale_grad_by_freq, module.sparse)


def _embedding_bag(
    module: Any, ids: Tensor, tensors: Any, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
) -> Tensor:
    return reduce_bags(module, torch.embedding(tensors["weight"], ids), ids, offsets, per_sample_weights)


def reduce_bags(
    module: Any, rows: Tensor, ids: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None
) -> Tensor:
    """What `nn.EmbeddingBag` makes of the rows of its indices, so that forms of it need not compute other rows.

    Args:
        module: with `mode`, `include_last_offset` and `padding_idx` of the `nn.EmbeddingBag`.
        rows: [*ids, embedding_dim].
        ids: [bags, length], or [indices] with `offsets`.
        offsets: where each bag begins.
        per_sample_weights: factors of the rows, of the shape of `ids`; mode `sum` only.
    """
    rows = rows.reshape(-1, rows.shape[-1])
    positions, padding = torch.arange(ids.numel(), device=ids.device).reshape(ids.shape), None
    if module.padding_idx is not None:
        # One more row that every index of padding points to, and that no bag counts: the first, so that it stays the
        # same in a trace.
        padding = 0
        rows = F.pad(rows, (0, 0, 1, 0))
        positions = torch.where(ids == module.padding_idx, torch.zeros_like(positions), positions + 1)
    return F.embedding_bag(
        positions,
        rows,
        offsets,
        mode=module.mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=module.include_last_offset,
        padding_idx=padding,
    )


def _convolution(module: Any, x: Tensor, tensors: Any) -> Tensor:
    base: Any = _CONVOLUTIONS[len(module.kernel_size)]
    result: Tensor = base._conv_forward(module, x, tensors["weight"], tensors["bias"])
    return result


def _transposed_convolution(module: Any, x: Tensor, tensors: Any, output_size: list[int] | None = None) -> Tensor:
    weight, bias = tensors["weight"], tensors["bias"]
    dimensions = len(module.kernel_size)
    output_padding = nn.ConvTranspose2d._output_padding(
        module, x, output_size, module.stride, module.padding, module.kernel_size, dimensions, module.dilation
    )
    convolve: Callable[..., Tensor] = getattr(F, f"conv_transpose{dimensions}d")
    return convolve(x, weight, bias, module.stride, module.padding, output_padding, module.groups, module.dilation)


_CONVOLUTIONS: Mapping[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

_TORCH_CLASSES: Mapping[str, type[nn.Module]] = {
    "Linear": nn.Linear,
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Conv3d": nn.Conv3d,
    "ConvTranspose1d": nn.ConvTranspose1d,
    "ConvTranspose2d": nn.ConvTranspose2d,
    "ConvTranspose3d": nn.ConvTranspose3d,
    "Embedding": nn.Embedding,
    "EmbeddingBag": nn.EmbeddingBag,
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
}

OPERATORS: Mapping[str, Operator] = {
    operator.name: operator
    for operator in (
        Operator("Linear", 0, 1, ("in_features", "out_features"), _linear),
        # The transformers library's Linear with a weight stored as [in_features, out_features].
        Operator("Conv1D", 1, 0, ("nf", "nx"), _transposed_weight_linear),
        *(Operator(f"Conv{n}d", 0, None, _CONVOLUTION_ATTRIBUTES, _convolution) for n in (1, 2, 3)),
        *(Operator(f"ConvTranspose{n}d", 1, None, _CONVOLUTION_ATTRIBUTES, _transposed_convolution) for n in (1, 2, 3)),
        Operator(
            "Embedding",
            0,
            None,
            ("num_embeddings", "embedding_dim", "padding_idx", "scale_grad_by_freq", "sparse"),
            _embedding,
            biases=lambda module: (),
        ),
        Operator(
            "EmbeddingBag",
            0,
            None,
            (
                *("num_embeddings", "embedding_dim", "padding_idx", "scale_grad_by_freq", "sparse"),
                *("mode", "include_last_offset", "max_norm", "norm_type"),
            ),
            _embedding_bag,
            biases=lambda module: (),
        ),
        *(
            Operator(
                name,
                0,
                None,
                RECURRENT_ATTRIBUTES,
                compute_recurrent,
                recurrent_weights,
                recurrent_biases,
                RECURRENT_CACHES,
            )
            for name in RECURRENT_TYPES
        ),
    )
}
"""Every operator type by name."""
