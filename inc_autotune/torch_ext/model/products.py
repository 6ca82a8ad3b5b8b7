"""Functions of torch that multiply by a weight: what of it they take for a matrix, and what is left to compute."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from string import ascii_letters
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.model.contractions import Contraction, Stack, equation_terms, plan_contraction
from inc_autotune.torch_ext.model.parameter_views import Layout, ParameterView

Multiply = Callable[[Tensor], Tensor]
Find = Callable[[Any], "ParameterView | None"]


class Product(NamedTuple):
    """A call of a function that multiplies by a weight, or looks rows of it up.

    Args:
        kind: type of the module that computes the same, such as `Linear`.
        source: what stands for the parameter.
        layouts: of each matrix, kernel or table that is used.
        geometry: arguments of a convolution by name, in order.
        bias: what is added, or None.
        compute: everything but the bias, given a module's computation for each layout.
    """

    kind: str
    source: Any
    layouts: tuple[Layout, ...]
    geometry: tuple[tuple[str, Any], ...]
    bias: Any
    compute: Callable[[Sequence[Multiply]], Tensor]


def read_product(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], find: Find) -> Product | None:
    """The product that a call of a function is; None for other functions and for products of another form.

    Args:
        func: as `__torch_function__` gets it.
        args: of the call.
        kwargs: of the call.
        find: the view of a parameter that an argument is, or None.
    """
    reader = _READERS.get(func)
    if reader is None:
        if getattr(func, "__name__", "").partition(".")[0] != "grouped_mm_fallback":  # of the transformers library
            return None
        reader = _grouped
    return reader(find, *args, **kwargs)


def _linear(find: Find, input: Any, weight: Any, bias: Any = None) -> Product | None:
    view = find(weight)
    if view is None or find(input) is not None or len(view.sizes) != 2:
        return None
    return Product("Linear", view.source, (view.matrix((0,), (1,)),), (), bias, lambda modules: modules[0](input))


def _inner(find: Find, input: Any, other: Any, **rest: Any) -> Product | None:
    return None if rest else _linear(find, input, other)


def _matmul(find: Find, input: Any, other: Any, **rest: Any) -> Product | None:
    left, right = find(input), find(other)
    if rest or (left is None) == (right is None):
        return None
    if right is not None:
        return _times_weight(input, right)
    assert left is not None
    if other.dim() == 1:
        return _times_weight(other, left.transpose(-2, -1)) if len(left.sizes) == 2 else None
    if len(left.sizes) < 2:
        return None
    # (x.T @ weight.T).T
    product = _times_weight(other.transpose(-2, -1), left.transpose(-2, -1))
    if product is None:
        return None
    return product._replace(compute=lambda modules: product.compute(modules).transpose(-2, -1))


def _matmul_from_the_right(find: Find, input: Any, other: Any) -> Product | None:
    return _matmul(find, other, input)


def _times_weight(x: Tensor, view: ParameterView) -> Product | None:
    """x [..., in] times the view of a weight [..., in, out]."""
    count = len(view.sizes)
    if count < 2:
        return None
    batch = list(zip(view.sizes[:-2], view.strides[:-2], strict=True))
    if all(size == 1 or stride == 0 for size, stride in batch):
        shape = x.shape[x.dim() - count : -2] if x.dim() >= count else ()
        if x.dim() < count and batch:
            return None
        if any(size not in (1, own) for (size, _), own in zip(batch, shape, strict=True)):
            return None
        layout = view.matrix((count - 1,), (count - 2,))
        return Product("Linear", view.source, (layout,), (), None, lambda modules: modules[0](x))
    if count != 3 or x.dim() != 3 or x.shape[0] != view.sizes[0]:
        return None
    layouts = tuple(each.matrix((1,), (0,)) for each in view.unbind())
    return Product("Linear", view.source, layouts, (), None, lambda modules: _stacked(modules, x, 0, 0))


def _stacked(modules: Sequence[Multiply], x: Tensor, axis: int, output_axis: int) -> Tensor:
    return torch.stack([module(x.select(axis, index)) for index, module in enumerate(modules)], output_axis)


def _addmm(
    find: Find, input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1, **rest: Any
) -> Product | None:
    view = find(mat2)
    if rest or view is None or find(mat1) is not None or beta != 1 or alpha != 1:
        return None
    product = _times_weight(mat1, view)
    return None if product is None else product._replace(bias=input)


def _einsum(find: Find, equation: Any, *operands: Any) -> Product | None:
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    views = [find(each) for each in operands]
    if (views[0] is None) == (views[1] is None):
        return None
    terms = equation_terms(equation)
    if terms is None:
        return None
    which = 0 if views[0] is not None else 1
    view, x = views[which], operands[1 - which]
    assert view is not None
    return _contraction(x, view, terms[1 - which], terms[which], terms[2])


def _contraction(x: Tensor, view: ParameterView, x_term: str, term: str, output: str) -> Product | None:
    """Sum over the labels that `x` and the weight share and the output has not."""
    plan = plan_contraction(x_term, x.dim(), term, output, view.sizes, view.strides, view.offset)
    if isinstance(plan, Contraction):
        return Product("Linear", view.source, (plan.layout,), (), None, lambda modules: plan.compute(x, modules[0]))
    return None if plan is None else _stacked_contraction(x, view, term, plan)


def _stacked_contraction(x: Tensor, view: ParameterView, term: str, stack: Stack) -> Product | None:
    """One weight for each index of a label."""
    x_labels, output, label = stack
    axis, output_axis = x_labels.index(label), output.index(label)
    names = dict(zip(dict.fromkeys((*x_labels, *term, *output)), ascii_letters, strict=False))
    texts = ["".join(names[each] for each in labels if each != label) for labels in (x_labels, term, output)]
    parts = [_contraction(x.select(axis, 0), each, *texts) for each in view.unbind(term.index(label))]
    found = [part for part in parts if part is not None]
    if not found or len(found) < len(parts):
        return None

    def compute(modules: Sequence[Multiply]) -> Tensor:
        results = []
        for index, module in enumerate(modules):
            part = _contraction(x.select(axis, index), view.select(term.index(label), index), *texts)
            assert part is not None
            results.append(part.compute([module]))
        return torch.stack(results, output_axis)

    return Product("Linear", view.source, tuple(part.layouts[0] for part in found), (), None, compute)


def _tensordot(find: Find, a: Any, b: Any, dims: Any = 2, out: Any = None) -> Product | None:
    if out is not None or isinstance(dims, Tensor) or (find(a) is None) == (find(b) is None):
        return None
    left, right = len(a.shape), len(b.shape)
    if isinstance(dims, int):
        dims = (list(range(left - dims, left)), list(range(dims)))
    first, second = ([axis % count for axis in axes] for axes, count in zip(dims, (left, right), strict=True))
    terms = [*ascii_letters[:left]], [*ascii_letters[left : left + right]]
    for one, other in zip(first, second, strict=True):
        terms[1][other] = terms[0][one]
    output = [label for label in (*terms[0], *terms[1]) if label not in {*terms[0]} & {*terms[1]}]
    return _einsum(find, f"{''.join(terms[0])},{''.join(terms[1])}->{''.join(output)}", a, b)


def _convolution(dimensions: int) -> Callable[..., Product | None]:
    def read(
        find: Find,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Product | None:
        view = find(weight)
        layout = None if view is None else view.kernel()
        if view is None or layout is None or find(input) is not None:
            return None
        geometry = (
            ("stride", _each(stride, dimensions)),
            ("padding", padding if isinstance(padding, str) else _each(padding, dimensions)),
            ("dilation", _each(dilation, dimensions)),
            ("groups", groups),
        )
        return Product(f"Conv{dimensions}d", view.source, (layout,), geometry, bias, lambda modules: modules[0](input))

    return read


def _transposed_convolution(dimensions: int) -> Callable[..., Product | None]:
    def read(
        find: Find,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Product | None:
        plain = _convolution(dimensions)(find, input, weight, bias, stride, padding, dilation, groups)
        if plain is None:
            return None
        geometry = (*plain.geometry, ("output_padding", _each(output_padding, dimensions)))
        return plain._replace(kind=f"ConvTranspose{dimensions}d", geometry=geometry)

    return read


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


def _embedding(
    find: Find, input: Any, weight: Any, padding_idx: Any = None, max_norm: Any = None, *_: Any, **__: Any
) -> Product | None:
    view = find(weight)
    layout = None if view is None else view.kernel()
    if view is None or layout is None or max_norm is not None or len(view.sizes) != 2:
        return None
    return Product("Embedding", view.source, (layout,), (), None, lambda modules: modules[0](input))


def _low_level_embedding(find: Find, weight: Any, indices: Any, *_: Any, **__: Any) -> Product | None:
    return _embedding(find, indices, weight)


def _grouped(find: Find, input: Any, weight: Any, offs: Any = None, **rest: Any) -> Product | None:
    """Rows of the input that are sorted by the weight they are multiplied by; `offs`: where each one's rows end."""
    view = find(weight)
    if view is None or find(input) is not None or len(view.sizes) != 3 or input.dim() != 2 or offs is None:
        return None
    if any(value is not None for value in rest.values()):
        return None

    def compute(modules: Sequence[Multiply]) -> Tensor:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise ModelError(
                "grouped_mm of experts: a trace would fix how many rows each expert gets. Compile the model or run it "
                "eagerly, or leave the experts in fp32 with op_name_dict."
            )
        ends = [0, *offs.tolist()]
        rows = zip(modules, pairwise(ends), strict=True)
        parts = [module(input[start:end]) for module, (start, end) in rows if end > start]
        parts.append(input.new_zeros(len(input) - ends[-1], view.sizes[2]))
        return torch.cat(parts)

    layouts = tuple(each.matrix((1,), (0,)) for each in view.unbind())
    return Product("Linear", view.source, layouts, (), None, compute)


def _readers() -> dict[Any, Callable[..., Product | None]]:
    functions = (operator.matmul, torch.matmul, torch.mm, torch.bmm)
    methods = (Tensor.__matmul__, Tensor.matmul, Tensor.mm, Tensor.bmm)
    readers: dict[Any, Callable[..., Product | None]] = {
        F.linear: _linear,
        torch.inner: _inner,
        Tensor.inner: _inner,
        **dict.fromkeys((*functions, *methods), _matmul),
        Tensor.__rmatmul__: _matmul_from_the_right,
        torch.addmm: _addmm,
        Tensor.addmm: _addmm,
        torch.baddbmm: _addmm,
        Tensor.baddbmm: _addmm,
        torch.einsum: _einsum,
        torch.tensordot: _tensordot,
        F.conv1d: _convolution(1),
        F.conv2d: _convolution(2),
        F.conv3d: _convolution(3),
        F.conv_transpose1d: _transposed_convolution(1),
        F.conv_transpose2d: _transposed_convolution(2),
        F.conv_transpose3d: _transposed_convolution(3),
        F.embedding: _embedding,
        torch.embedding: _low_level_embedding,
    }
    grouped = (getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None))
    return {**readers, **{function: _grouped for function in grouped if function is not None}}


_READERS = _readers()
