"""What a program sees of a parameter whose products are modules: views of it, by sizes and strides alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

Dimensions = tuple[tuple[int, int], ...]
"""Sizes with their strides, outermost first."""

Layout = tuple[int, Dimensions, Dimensions]
"""Where the elements of a matrix lie in a parameter: the first one, then the dimensions of its rows and columns."""


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of elements that are numbered in order."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def merged(dimensions: Dimensions) -> Dimensions:
    """The same elements in the same order in as few dimensions as can be."""
    result: list[tuple[int, int]] = []
    for size, stride in dimensions:
        if size == 1:
            continue
        if result and result[-1][1] == size * stride:
            result[-1] = (result[-1][0] * size, stride)
        else:
            result.append((size, stride))
    return tuple(result)


def layout_of(
    offset: int, sizes: tuple[int, ...], strides: tuple[int, ...], rows: tuple[int, ...], columns: tuple[int, ...]
) -> Layout:
    """Where the elements of a matrix lie whose rows and columns run over dimensions of a view."""
    each = [merged(tuple((sizes[axis], strides[axis]) for axis in axes)) for axes in (rows, columns)]
    return offset, each[0], each[1]


_known_layout_of = lru_cache(maxsize=4096)(layout_of)
"""Eager calls ask for the same again and again."""


class SeenThroughViews:
    """What behaves as a parameter in a program and holds no numbers of its own to compute with.

    Views of it are views again, functions of torch that multiply by one are handed to the module that does so, and
    everything else gets a plain tensor.
    """

    def seen(self) -> ParameterView:
        """All of it."""
        raise NotImplementedError

    def plain(self) -> Tensor:
        """Its numbers, float32."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return first_source((*args, *kwargs.values())).compute(func, args, kwargs)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.seen().sizes)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.seen().source.dtype
        return dtype

    @property
    def ndim(self) -> int:
        return len(self.seen().sizes)

    @property
    def T(self) -> Any:  # noqa: N802
        seen = self.seen()
        return seen.permute(*reversed(range(len(seen.sizes))))

    @property
    def mT(self) -> Any:  # noqa: N802
        # `torch.jit.trace` reads every property, also of vectors.
        return self.seen().transpose(-2, -1) if self.ndim > 1 else self.seen()

    @property
    def data(self) -> Any:
        return self.seen()

    def dim(self) -> int:
        return len(self.seen().sizes)

    def numel(self) -> int:
        return prod(self.seen().sizes)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.seen().sizes[dim]

    def __len__(self) -> int:
        return self.seen().sizes[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unbind())

    def __getitem__(self, index: Any) -> Any:
        view: Any = self.seen()
        axis = 0
        for each in index if isinstance(index, tuple) else (index,):
            if _is_integer(each):
                view = view.select(axis, int(each))
            elif isinstance(each, slice) and each.step in (None, 1):
                start, stop, _ = each.indices(view.sizes[axis])
                view = view.narrow(axis, start, max(stop - start, 0))
                axis += 1
            else:
                return self.plain()[plain_form(index)]
        return view

    def detach(self) -> Any:
        return self.seen()

    def contiguous(self) -> Any:
        view = self.seen()
        return view if view.is_contiguous() else self.plain().contiguous()

    def is_contiguous(self) -> bool:
        view = self.seen()
        return view.strides == contiguous_strides(view.sizes)

    def float(self) -> Any:
        return self.to(torch.float32)

    def type_as(self, other: Any) -> Any:
        return self.to(other.dtype)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        wanted = [each.dtype if isinstance(each, Tensor) else each for each in (*args, *kwargs.values())]
        return self.seen() if all(each == self.dtype for each in wanted) else self.plain().to(*args, **kwargs)

    def t(self) -> Any:
        return self.T

    def transpose(self, dim0: int, dim1: int) -> Any:
        axes = list(range(self.dim()))
        axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
        return self.permute(*axes)

    def permute(self, *dims: Any) -> Any:
        view = self.seen()
        axes = [axis % len(view.sizes) for axis in _sizes(dims)]
        return view.taken([view.sizes[axis] for axis in axes], [view.strides[axis] for axis in axes])

    def select(self, dim: int, index: int) -> Any:
        view = self.seen()
        axis, size = dim % len(view.sizes), view.sizes[dim]
        if not -size <= index < size:
            raise IndexError(f"index {index} is out of bounds for dimension {axis} with size {size}")
        sizes, strides = (each[:axis] + each[axis + 1 :] for each in (view.sizes, view.strides))
        return view.taken(sizes, strides, view.offset + index % size * view.strides[axis])

    def narrow(self, dim: int, start: int, length: int) -> Any:
        view = self.seen()
        axis = dim % len(view.sizes)
        sizes = [*view.sizes[:axis], length, *view.sizes[axis + 1 :]]
        return view.taken(sizes, view.strides, view.offset + start * view.strides[axis])

    def unbind(self, dim: int = 0) -> tuple[Any, ...]:
        return tuple(self.select(dim, index) for index in range(self.size(dim)))

    def split(self, split_size: Any, dim: int = 0) -> tuple[Any, ...]:
        size = self.size(dim)
        lengths = split_size
        if isinstance(split_size, int):
            lengths = [min(split_size, size - start) for start in range(0, size, split_size)]
        starts = [sum(lengths[:index]) for index in range(len(lengths))]
        return tuple(self.narrow(dim, start, length) for start, length in zip(starts, lengths, strict=True))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Any, ...]:
        return self.split(-(-self.size(dim) // chunks), dim)

    def unsqueeze(self, dim: int) -> Any:
        view = self.seen()
        axis = dim % (len(view.sizes) + 1)
        strides = (*view.strides[:axis], 1, *view.strides[axis:])
        return view.taken((*view.sizes[:axis], 1, *view.sizes[axis:]), strides)

    def squeeze(self, *dims: Any) -> Any:
        view = self.seen()
        axes = [axis % len(view.sizes) for axis in _sizes(dims)] or range(len(view.sizes))
        left = [axis for axis in range(len(view.sizes)) if axis not in axes or view.sizes[axis] != 1]
        return view.taken([view.sizes[axis] for axis in left], [view.strides[axis] for axis in left])

    def expand(self, *sizes: Any) -> Any:
        view = self.seen()
        wanted = _sizes(sizes)
        added = len(wanted) - len(view.sizes)
        old, strides = (*(1,) * added, *view.sizes), (*(0,) * added, *view.strides)
        kept = [each in (-1, size) for each, size in zip(wanted, old, strict=True)]
        return view.taken(
            [size if keeps else each for each, size, keeps in zip(wanted, old, kept, strict=True)],
            [stride if keeps else 0 for stride, keeps in zip(strides, kept, strict=True)],
        )

    def reshape(self, *shape: Any) -> Any:
        view = self.seen()
        sizes = list(_sizes(shape))
        if -1 in sizes:
            known = prod(size for size in sizes if size != -1)
            sizes[sizes.index(-1)] = prod(view.sizes) // max(known, 1)
        parts = merged(tuple(zip(view.sizes, view.strides, strict=True)))
        strides: list[int] = []
        # From the innermost: each part of the memory is cut into dimensions of the new shape.
        left = list(parts)
        for size in reversed(sizes):
            if size == 1:
                strides.append(1)
                continue
            if not left or left[-1][0] % size:
                return self.plain().reshape(*shape)
            length, stride = left.pop()
            strides.append(stride)
            if length // size > 1:
                left.append((length // size, stride * size))
        return self.plain().reshape(*shape) if left else view.taken(sizes, list(reversed(strides)))

    def view(self, *shape: Any) -> Any:
        return self.reshape(*shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        sizes = self.seen().sizes
        first, last = start_dim % len(sizes), end_dim % len(sizes)
        return self.reshape(*sizes[:first], prod(sizes[first : last + 1]), *sizes[last + 1 :])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]
        except AttributeError:
            if name.startswith("_") or not hasattr(Tensor, name):
                raise
            return getattr(self.plain(), name)


def _arithmetic(name: str) -> Any:
    def compute(self: SeenThroughViews, *others: Any) -> Any:
        return getattr(self.plain(), name)(*map(plain_form, others))

    return compute


_OPERATORS = "add sub mul truediv pow radd rsub rmul rtruediv neg abs lt le gt ge"

for _name in _OPERATORS.split():
    setattr(SeenThroughViews, f"__{_name}__", _arithmetic(f"__{_name}__"))


class ParameterView(SeenThroughViews):
    """Some elements of a parameter, numbered as they lie there.

    Args:
        source: what stands for the parameter.
        sizes: of the view.
        strides: in elements.
        offset: number of the first element.
    """

    def __init__(self, source: Any, sizes: Sequence[int], strides: Sequence[int], offset: int = 0) -> None:
        self.source = source
        self.sizes = tuple(sizes)
        self.strides = tuple(strides)
        self.offset = offset

    def seen(self) -> ParameterView:
        return self

    def taken(self, sizes: Sequence[int], strides: Sequence[int], offset: int | None = None) -> ParameterView:
        """Other elements of the same parameter."""
        return ParameterView(self.source, sizes, strides, self.offset if offset is None else offset)

    def plain(self) -> Tensor:
        whole: Tensor = self.source.plain()
        return whole.as_strided(self.sizes, self.strides, self.offset)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.source.device
        return device

    def matrix(self, rows: Sequence[int], columns: Sequence[int]) -> Layout:
        """Where the elements of a matrix lie whose rows and columns run over these dimensions."""
        layout = layout_of if torch.compiler.is_compiling() else _known_layout_of
        return layout(self.offset, self.sizes, self.strides, tuple(rows), tuple(columns))

    def kernel(self) -> Layout | None:
        """Where elements lie that are numbered in order in every dimension; None if these are not."""
        dimensions = tuple(zip(self.sizes, contiguous_strides(self.sizes), strict=True))
        return (self.offset, dimensions, ()) if self.is_contiguous() else None


def first_source(values: Sequence[Any]) -> Any:
    """What stands for the first parameter among the arguments of a function, which may lie in lists."""
    for value in values:
        if isinstance(value, SeenThroughViews):
            return value.seen().source
        if isinstance(value, (tuple, list)):
            source = first_source(value)
            if source is not None:
                return source
    return None


def plain_form(value: Any) -> Any:
    """The argument of a function with plain tensors in place of parameters, in lists, tuples and dicts too."""
    if isinstance(value, SeenThroughViews):
        return value.plain()
    if isinstance(value, dict):
        return {key: plain_form(each) for key, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(plain_form, value))
    return value


def _sizes(given: Any) -> Sequence[int]:
    """Sizes or dimensions, given one by one or as one sequence."""
    return given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given


def _is_integer(index: Any) -> bool:
    if isinstance(index, Tensor):
        return index.dim() == 0 and not index.is_floating_point() and index.dtype != torch.bool
    return isinstance(index, int) and not isinstance(index, bool)
