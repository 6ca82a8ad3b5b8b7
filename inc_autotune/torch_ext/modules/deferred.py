"""Tensors between integer convolutions that stay integers, whatever Python code of the model stands between them.

A convolution hands on a `DeferredTensor`: for Python a float32 tensor, in truth the bytes that the kernel wrote. What
the model does with it is noted rather than done, and done when somebody reads the result: on bytes, into the very
integers that the next convolution reads, or in float32. No value is rounded that would not be rounded without it,
since a convolution rounds its input anyway, so nothing has to be calibrated for it and results stay the same.
`torch.jit.trace` sees the operators that are computed in the end, and no deferred tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.torch_ext.modules.deferred_value import Grid, Value, broadcast_rank, written
from inc_autotune.torch_ext.modules.rounded_functions import rounded_hardswish, rounded_leaky_relu, rounded_sum

_NOTHING = torch.empty(0)


class DeferredTensor(Tensor):
    """See the module. Whoever reads it other than through the rules of this module gets a plain float32 tensor.

    Attributes:
        value: what it stands for; an operation in place puts another one here.
        any_layout: whether the float32 form may lie as it comes, else it is contiguous.
    """

    value: Value
    any_layout: bool

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is not None:
            result = rule(*args, **kwargs)
            if result is not NotImplemented:
                return result
        plain_args, plain_kwargs = _plain(args), _plain(dict(kwargs))
        if args and isinstance(args[0], DeferredTensor) and _writes(func):
            target = plain_args[0].clone()
            func(target, *plain_args[1:], **plain_kwargs)
            args[0].value = Value(lambda: target, like=target)
            return args[0]
        return func(*plain_args, **plain_kwargs)


def deferred(value: Value, any_layout: bool) -> DeferredTensor:
    tensor = Tensor._make_subclass(DeferredTensor, _NOTHING)
    tensor.__dict__["value"], tensor.__dict__["any_layout"] = value, any_layout
    return tensor


def handed_on(x: Tensor, grid: Grid) -> DeferredTensor:
    """What an integer convolution would hand on, were its output `x`."""
    memory_format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    integers = torch.quantize_per_tensor(x.contiguous(memory_format=memory_format), *grid, torch.quint8)
    return deferred(written(integers, grid), any_layout=True)


def plain(x: Tensor) -> Tensor:
    """A tensor as float32; one that is not deferred as it is."""
    if not isinstance(x, DeferredTensor):
        return x
    if x.any_layout:
        return x.value.floats()
    # As bytes, if it can be: a quarter of the memory traffic. A clone, as `contiguous` keeps odd strides of sizes of 1.
    if x.value.integers is not None and not x.value.has_floats:
        return x.value.integers.clone(memory_format=torch.contiguous_format).dequantize()
    return x.value.floats().clone(memory_format=torch.contiguous_format)


def rounded(x: Tensor, grid: Grid, for_all: bool = False) -> Tensor:
    """A tensor, deferred or not, as quint8 on a grid; `for_all` as in `Value.rounded`."""
    if isinstance(x, DeferredTensor):
        return x.value.rounded(grid, for_all)
    return torch.quantize_per_tensor(x, *grid, torch.quint8)


def _plain(given: Any) -> Any:
    if isinstance(given, DeferredTensor):
        return plain(given)
    if isinstance(given, list | tuple) and type(given) in (list, tuple, torch.Size):
        return type(given)(map(_plain, given))
    if type(given) is dict:
        return {key: _plain(each) for key, each in given.items()}
    return given


def _writes(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name in _WRITING if name.startswith("__") else name.endswith("_")


_WRITING = frozenset(
    f"__{name}__"
    for name in ("setitem", *(f"i{each}" for each in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")))
)


# Rules: what stays deferred. Each takes the arguments of its function.


def _in_place(rule: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, DeferredTensor):
            return NotImplemented
        result = rule(x, *args, **kwargs)
        if isinstance(result, DeferredTensor):
            x.value = result.value
            return x
        return NotImplemented

    return run


def _pointwise(
    function: Callable[..., Tensor], kernel: Callable[..., Tensor] | None = None, in_place: bool = False
) -> Callable[..., Any]:
    """A function of each element.

    Args:
        function: of a float tensor and other arguments.
        kernel: what computes the same of quint8, of the same arguments and a grid; None: there is none, or it is slower
            than the way through float32, as a table is, and for SiLU the product with a sigmoid in integers.
        in_place: whether the function has an argument `inplace`; then one large tensor less is allocated.
    """

    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("inplace", None)
        if not isinstance(x, DeferredTensor) or any(isinstance(each, Tensor) for each in (*args, *kwargs.values())):
            return NotImplemented
        value = x.value

        def compute() -> Tensor:
            if in_place and value.integers is not None and not value.has_floats:
                return function(value.integers.dequantize(), *args, **kwargs, inplace=True)
            return function(value.floats(), *args, **kwargs)

        result = Value(compute, like=value.like, rank=value.rank)
        if kernel is not None and value.integers is not None:
            run_kernel, integers = kernel, value.integers
            result.round_into = lambda grid: run_kernel(integers, grid, *args, **kwargs)
        return deferred(result, x.any_layout)

    return run


def _inplace_argument(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Of functions with an argument `inplace`."""
    writing = _in_place(rule)

    def run(x: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        return (writing if inplace else rule)(x, *args, **kwargs)

    return run


def _clamped(x: Any, minimum: float | None = None, maximum: float | None = None) -> Any:
    """Of what a kernel wrote, on bytes where the bounds lie on its grid; nothing, where its grid ends there."""
    if not isinstance(x, DeferredTensor) or isinstance(minimum, Tensor) or isinstance(maximum, Tensor):
        return NotImplemented
    value = x.value
    if value.integers is not None and value.grid is not None:
        scale, zero = value.grid
        lowest, highest = -zero * scale, (255 - zero) * scale
        # Bounds as float32 arithmetic has them: a grid that was made for [0, 6] ends at 6, but for a rounding.
        needs_maximum = maximum is not None and maximum < highest * (1 - 1e-6)
        if not needs_maximum and (minimum is None or minimum <= lowest):
            return deferred(value, x.any_layout)
        if not needs_maximum and minimum == 0:
            return deferred(written(torch.relu(value.integers), value.grid), x.any_layout)
    result = Value(lambda: torch.clamp(value.floats(), minimum, maximum), like=value.like, rank=value.rank)
    if value.summands is not None and minimum == 0 and maximum is None:
        result.round_into, result.is_sum = partial(rounded_sum, *value.summands, True), True
    return deferred(result, x.any_layout)


def _relu(x: Any) -> Any:
    return _clamped(x, 0)


def _relu6(x: Any) -> Any:
    return _clamped(x, 0, 6)


def _hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return _clamped(x, min_val, max_val)


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    return _clamped(x, min, max)


def _added(x: Any, y: Any, *, alpha: float = 1) -> Any:
    if _is_number(y):
        return _pointwise(torch.add)(x, y, alpha=alpha)
    if alpha != 1 or not _are_deferred(x, y):
        return NotImplemented
    one, other = x.value, y.value
    value = Value(lambda: one.floats() + other.floats(), rank=broadcast_rank(one, other))
    if one.integers is not None and other.integers is not None and one.integers.is_same_size(other.integers):
        value.summands, value.like = (one.integers, other.integers), one.like
        value.round_into, value.is_sum = partial(rounded_sum, one.integers, other.integers, False), True
    return deferred(value, _any_layout(x, y))


def _multiplied(x: Any, y: Any) -> Any:
    if _is_number(y):
        return _pointwise(torch.mul)(x, y)
    if not _are_deferred(x, y):
        return NotImplemented
    one, other = x.value, y.value
    value = Value(lambda: one.floats() * other.floats(), rank=broadcast_rank(one, other))
    return deferred(value, _any_layout(x, y))


def _divided(x: Any, y: Any) -> Any:
    return _pointwise(torch.div)(x, y) if _is_number(y) else NotImplemented


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float)


def _are_deferred(*operands: Any) -> bool:
    """Whether all are deferred: what waits must not wait for a plain tensor, which may be written in the meantime."""
    return all(isinstance(each, DeferredTensor) for each in operands)


def _any_layout(*tensors: Tensor) -> bool:
    return all(each.any_layout for each in tensors if isinstance(each, DeferredTensor))


def _moved(function: Callable[..., Any], keeps_rank: bool = False) -> Callable[..., Any]:
    """A function that moves elements, or chooses among them in their order: it is the same on bytes.

    Args:
        function: of a tensor and other arguments.
        keeps_rank: whether its results have as many dimensions as the tensor.
    """

    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if not isinstance(x, DeferredTensor) or any(isinstance(each, Tensor | torch.dtype) for each in given):
            return NotImplemented
        value, apply = x.value, _with_arguments(function, args, kwargs)
        if value.integers is not None and value.grid is not None:
            results, grid = apply(value.integers), value.grid
            if isinstance(results, Tensor):
                return deferred(written(results, grid), x.any_layout)
            return type(results)(deferred(written(each, grid), x.any_layout) for each in results)
        rank = value.known_rank() if keeps_rank else None
        waiting = Value(lambda: apply(value.floats()), lambda grid: apply(value.rounded(grid)), rank=rank)
        return deferred(waiting, x.any_layout)

    return run


def _with_arguments(function: Any, args: Any, kwargs: Any) -> Callable[[Tensor], Any]:
    return lambda tensor: function(tensor, *args, **kwargs)


def _split(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `_moved`, of functions that return several tensors, whose number must be known at once."""
    moved = _moved(function)

    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, DeferredTensor) or x.value.integers is not None:
            return moved(x, *args, **kwargs)
        if x.value.like is None:
            return NotImplemented
        count = len(function(x.value.like, *args, **kwargs))
        return tuple(_moved(_part(function, index), keeps_rank=True)(x, *args, **kwargs) for index in range(count))

    return run


def _part(function: Callable[..., Any], index: int) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: function(*args, **kwargs)[index]


def _concatenated(tensors: Any, dim: int = 0) -> Any:
    if not _are_deferred(*tensors):
        return NotImplemented
    values = [each.value for each in tensors]
    value = Value(
        lambda: torch.cat([each.floats() for each in values], dim),
        lambda grid: torch.cat([each.rounded(grid) for each in values], dim),
        rank=values[0].known_rank(),
    )
    return deferred(value, _any_layout(*tensors))


def _same(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x


def _dropped(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return NotImplemented if training else x


def _of_shape(function: Any) -> Callable[..., Any]:
    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        return function(x.value.shaped(), *args, **kwargs) if isinstance(x, DeferredTensor) else NotImplemented

    return run


def _rank(x: Any) -> Any:
    return x.value.dimensions() if isinstance(x, DeferredTensor) else NotImplemented


def _interpolated(
    x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *args: Any, **kwargs: Any
) -> Any:
    if mode != "nearest":
        return NotImplemented
    return _moved(F.interpolate, keeps_rank=True)(x, size, scale_factor, mode, *args, **kwargs)


def _pooled(function: Any) -> Callable[..., Any]:
    moved = _moved(function, keeps_rank=True)

    def run(x: Any, *args: Any, return_indices: bool = False, **kwargs: Any) -> Any:
        return NotImplemented if return_indices else moved(x, *args, **kwargs)

    return run


def _constant(value: Any) -> Callable[..., Any]:
    return lambda x, *args: value


def _rules() -> dict[Any, Callable[..., Any]]:
    rules: dict[Any, Callable[..., Any]] = {}

    def give(rule: Callable[..., Any], *functions: Any) -> None:
        rules.update(dict.fromkeys(functions, rule))

    methods: Any = Tensor
    give(_relu, torch.relu, methods.relu)
    give(_in_place(_relu), torch.relu_, methods.relu_)
    give(_inplace_argument(_relu), F.relu)
    give(_inplace_argument(_relu6), F.relu6)
    give(_inplace_argument(_hardtanh), F.hardtanh)
    give(_clamp, torch.clamp, methods.clamp, methods.clip, torch.clip)
    give(_in_place(_clamp), torch.clamp_, methods.clamp_)
    function: Any
    for function in (F.silu, F.hardsigmoid, F.elu, F.mish):
        give(_inplace_argument(_pointwise(function, in_place=True)), function)
    give(_inplace_argument(_pointwise(F.hardswish, rounded_hardswish, in_place=True)), F.hardswish)
    give(_inplace_argument(_pointwise(F.leaky_relu, rounded_leaky_relu, in_place=True)), F.leaky_relu)
    for function in (torch.sigmoid, torch.tanh, F.gelu, F.softplus):
        give(_pointwise(function), function)
    give(_pointwise(torch.sigmoid), methods.sigmoid, F.sigmoid)
    give(_pointwise(torch.tanh), methods.tanh, F.tanh)
    give(_added, torch.add, methods.add, methods.__add__, methods.__radd__)
    give(_in_place(_added), methods.add_, methods.__iadd__)
    give(_multiplied, torch.mul, methods.mul, methods.__mul__, methods.__rmul__)
    give(_in_place(_multiplied), methods.mul_, methods.__imul__)
    give(_divided, torch.div, methods.div, methods.__truediv__)
    give(_concatenated, torch.cat, torch.concat, torch.concatenate)
    for function in (torch.max_pool1d, torch.max_pool2d, F.max_pool1d, F.max_pool2d):
        give(_pooled(function), function)
    give(_moved(methods.reshape), methods.view)
    give(_interpolated, F.interpolate)
    for owner in (torch, methods):
        for name in ("flatten", "reshape", "squeeze", "unsqueeze"):
            give(_moved(getattr(owner, name)), getattr(owner, name))
        for name in ("permute", "transpose", "narrow"):
            give(_moved(getattr(owner, name), keeps_rank=True), getattr(owner, name))
        for name in ("chunk", "split"):
            give(_split(getattr(owner, name)), getattr(owner, name))
    give(_same, methods.contiguous, methods.float)
    give(_dropped, F.dropout, F.dropout2d, torch.dropout)
    give(_of_shape(methods.shape.__get__), methods.shape.__get__)
    for method in (methods.size, methods.numel, methods.__len__, methods.nelement):
        give(_of_shape(method), method)
    give(_rank, methods.dim, methods.ndimension, methods.ndim.__get__)
    give(_constant(torch.float32), methods.dtype.__get__)
    give(_constant(torch.device("cpu")), methods.device.__get__)
    give(_constant(False), methods.is_quantized.__get__, methods.requires_grad.__get__, methods.is_cuda.__get__)
    give(_constant(True), methods.is_floating_point, torch.is_floating_point, methods.is_cpu.__get__)
    return rules


_RULES: Mapping[Any, Callable[..., Any]] = _rules()
