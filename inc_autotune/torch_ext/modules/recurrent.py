"""LSTM, GRU and RNN with int8 weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.modules.linear import QuantizedLinear
from inc_autotune.torch_ext.modules.recurrent_form import RecurrentForm
from inc_autotune.torch_ext.modules.recurrent_script import script_steps
from inc_autotune.torch_ext.modules.state import QuantizedOperator
from inc_autotune.torch_ext.operators import OPERATORS, RecurrentCall, State, directions, eager_steps, run_layers
from inc_autotune.torch_ext.target import kernels


class QuantizedRecurrent(RecurrentForm, QuantizedOperator):
    """A recurrent layer around Linears with integer weights, one for each of its matrices.

    Dynamic, chosen by a fixed rule:

    1. FBGEMM's LSTM and GRU, which multiply the input of a layer as a whole and the hidden state step by step, for all
       layers in one call: where torch has them, no projection is asked for, and FBGEMM's Linear is exact with these
       weights;
    2. else the same steps around the Linears: in one program of TorchScript where FBGEMM's Linear is exact, one by one
       where the Linears choose other kernels;
    3. under `torch.export`, with a warning, and away from the CPU: torch's own layer with the weights dequantized.

    Weight-only is 3 everywhere: a quarter of the memory, and the time of fp32 and a little more.

    Takes and returns what `nn.LSTM`, `nn.GRU` and `nn.RNN` do. `weight_ih_l0` and the others, `all_weights` and
    `_flat_weights` have the dtype of the layer and are made anew at every access.

    Args:
        operator_name: `LSTM`, `GRU` or `RNN`.
        config: dynamic or weight_only.
        source: the layer, for its attributes.
        products: `QuantizedLinear`s, or simulated ones, by `ih_l0`, `hh_l0`, `hr_l0`, `ih_l0_reverse` and so on.
        simulated: whether there is no kernel for `config`.
    """

    def __init__(
        self,
        operator_name: str,
        config: OpConfig,
        source: nn.Module,
        products: Mapping[str, QuantizedOperator],
        simulated: bool,
    ) -> None:
        super().__init__(config)
        self.operator_name, self.simulated = operator_name, simulated
        for name in OPERATORS[operator_name].attributes:
            setattr(self, name, getattr(source, name))
        for name, linear in products.items():
            self.add_module(name, linear)
        self.rebuild_after_loading()
        self.rebuild()

    def rebuild(self) -> None:
        self.keep_packed()
        linears = [self._linear(f"{kind}_{direction}") for direction in directions(self) for kind in ("ih", "hh")]
        packed = [linear.packed for linear in linears if isinstance(linear, QuantizedLinear)]
        has_kernel = self.mode in kernels.recurrent_kernels() and not self.proj_size
        if not has_kernel or len(packed) < len(linears) or any(each is None for each in packed):
            return
        biases = [linear.bias for linear in linears]
        cells = [
            kernels.pack_cell(*packed[index : index + 2], *biases[index : index + 2])
            for index in range(0, len(packed), 2)
        ]
        self.keep_packed(*cells)

    def forward(self, input: Any, hx: Any = None) -> Any:
        is_compiling = torch.compiler.is_compiling()
        if is_compiling and self.config.approach == "dynamic" and torch.compiler.is_exporting():
            _warn_of_export(self.operator_name)
        if self.config.approach != "dynamic" or is_compiling or not self._is_on_cpu:
            return OPERATORS[self.operator_name].compute(self, input, self._float_tensors(), hx)
        call = RecurrentCall.of(self, input, hx, torch.float32)
        cells = self.packed_parts
        if cells:
            output, state = kernels.run_recurrent(
                self.mode, call.data, call.batch_sizes, call.state, cells, self.num_layers, self.bidirectional
            )
        else:
            output, state = self._run_steps(call)
        return call.results(output, state)

    def _run_steps(self, call: RecurrentCall) -> tuple[Tensor, State]:
        def product(name: str, rows: Tensor) -> Tensor:
            result: Tensor = self._linear(name)(rows)
            return result

        steps = None if self.simulated else script_steps(self.mode, call, self._linear)
        return run_layers(self, call, product, steps or eager_steps(self, call, product))

    @property
    def _is_on_cpu(self) -> bool:
        return bool(self._linear("ih_l0").weight_scale.is_cpu)

    def _linear(self, name: str) -> Any:
        return self._modules.get(name)

    def _float_tensors(self) -> dict[str, Tensor | None]:
        """Weights and biases in float32."""
        return {name: self._float32(name) for name in OPERATORS[self.operator_name].parameters(self)}

    def float_tensor(self, name: str) -> Tensor | None:
        tensor = self._float32(name)
        return None if tensor is None else tensor.to(self.layer_dtype)

    def _float32(self, name: str) -> Tensor | None:
        kind, _, product = name.partition("_")
        linear = self._linear(product)
        tensor: Tensor | None = linear.float_weight() if kind == "weight" else linear.bias
        return tensor

    def extra_repr(self) -> str:
        return f"{nn.RNNBase.extra_repr(self)}, {super().extra_repr()}"  # type: ignore[arg-type]


def _warn_of_export(operator_name: str) -> None:
    """Tell that an exported program does not multiply integers.

    Integer kernels for a whole layer take packed weights, which a program cannot hold, and its steps one by one, around
    integer products, take longer than this.
    """
    warnings.warn(
        f"an exported {operator_name} keeps its INT8 weights, a quarter of the memory, but computes in float32. For "
        "integer kernels use torch.jit.trace, or the converted model as it is.",
        stacklevel=2,
    )
