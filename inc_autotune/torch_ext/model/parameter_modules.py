"""Modules that stand in the place of a parameter: they compute its products, and pass as it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.model.parameter_views import (
    Layout,
    ParameterView,
    SeenThroughViews,
    contiguous_strides,
    plain_form,
)
from inc_autotune.torch_ext.model.products import Product, read_product

BiasKey = tuple[str, int, tuple[int, ...], tuple[int, ...]]
"""Path of a bias, offset, sizes and strides of what is added of it."""


class ParameterModule(SeenThroughViews):
    """Stands for a parameter: its products are computed by modules, everything else by the plain tensor.

    Attributes:
        whole: shape of the parameter.
        in_order: strides of its elements.
    """

    whole: tuple[int, ...]
    in_order: tuple[int, ...]

    def stand_for(self, parameter: Tensor) -> None:
        """Take the place of a parameter."""
        self.whole = tuple(parameter.shape)
        self.in_order = contiguous_strides(self.whole)

    def seen(self) -> ParameterView:
        return ParameterView(self, self.whole, self.in_order)

    def modules_of(self, product: Product) -> Sequence[nn.Module] | None:
        """The modules that compute a product; None if it is none of those that are known."""
        raise NotImplementedError

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Any function of torch."""
        product = read_product(func, args, kwargs, as_view)
        modules = None if product is None else product.source.modules_of(product)
        if product is None or modules is None:
            return func(*plain_form(args), **{name: plain_form(value) for name, value in kwargs.items()})
        added = modules[0].__dict__.get("adds")
        if product.bias is None and added is None:
            return product.compute(modules)
        return _with_bias(product, modules, added)


def as_view(value: Any) -> ParameterView | None:
    """The view of a parameter that an argument is; None for plain tensors."""
    return value.seen() if isinstance(value, SeenThroughViews) else None


def _with_bias(product: Product, modules: Sequence[Any], added: BiasKey | None) -> Tensor:
    view = as_view(product.bias)
    key = view.source.key_of(view) if view is not None and isinstance(view.source, ParameterBias) else None
    y = product.compute(modules)
    if key is not None and key == added:
        return y
    if added is not None:
        y = y - _for_channels(modules[0].bias, product.kind)
    return y if product.bias is None else y + _for_channels(plain_form(product.bias), product.kind)


def _for_channels(bias: Tensor, kind: str) -> Tensor:
    return bias.reshape(-1, *(1,) * int(kind[-2])) if kind.startswith("Conv") else bias


class ParameterOperator(ParameterModule):
    """A parameter that is the weight of one operator; stands before the operator's class.

    Attributes:
        key: kind, layout and geometry of its products.
        table: the parameter itself, where it is looked up as well; else absent.
    """

    key: tuple[str, Layout, tuple[tuple[str, Any], ...]]

    def modules_of(self, product: Product) -> Sequence[nn.Module] | None:
        own = self.key == (product.kind, product.layouts[0], product.geometry) and len(product.layouts) == 1
        return [self] if own else None  # type: ignore[list-item]

    @property
    def dtype(self) -> torch.dtype:
        weight: Tensor | None = self._parameters.get("weight")
        return torch.float32 if weight is None else weight.dtype

    def plain(self) -> Tensor:
        module: Any = self
        table: Tensor | None = module._parameters.get("table")
        return _spread(module.weight, self.key[1], self.whole) if table is None else table

    @property
    def device(self) -> torch.device:
        return _device(self)


class ParameterLinear(ParameterOperator, nn.Linear):
    """See `ParameterOperator`."""


class ParameterConv1d(ParameterOperator, nn.Conv1d):
    """See `ParameterOperator`."""


class ParameterConv2d(ParameterOperator, nn.Conv2d):
    """See `ParameterOperator`."""


class ParameterConv3d(ParameterOperator, nn.Conv3d):
    """See `ParameterOperator`."""


class ParameterConvTranspose1d(ParameterOperator, nn.ConvTranspose1d):
    """See `ParameterOperator`."""


class ParameterConvTranspose2d(ParameterOperator, nn.ConvTranspose2d):
    """See `ParameterOperator`."""


class ParameterConvTranspose3d(ParameterOperator, nn.ConvTranspose3d):
    """See `ParameterOperator`."""


class ParameterEmbedding(ParameterOperator, nn.Embedding):
    """See `ParameterOperator`."""


WHOLE: Mapping[str, type[nn.Module]] = {
    "Linear": ParameterLinear,
    "Conv1d": ParameterConv1d,
    "Conv2d": ParameterConv2d,
    "Conv3d": ParameterConv3d,
    "ConvTranspose1d": ParameterConvTranspose1d,
    "ConvTranspose2d": ParameterConvTranspose2d,
    "ConvTranspose3d": ParameterConvTranspose3d,
    "Embedding": ParameterEmbedding,
}
"""By operator type."""


class ParameterPieces(ParameterModule, nn.Module):
    """A parameter whose pieces are the weights of several operators, such as the experts of a mixture.

    Attributes:
        names: of the children, by kind, layout and geometry of their products.
    """

    names: dict[tuple[str, Layout, tuple[tuple[str, Any], ...]], str]

    def modules_of(self, product: Product) -> Sequence[nn.Module] | None:
        names = [self.names.get((product.kind, layout, product.geometry)) for layout in product.layouts]
        children: dict[str, Any] = self._modules
        return None if None in names else [children[str(name)] for name in names]

    @property
    def dtype(self) -> torch.dtype:
        weight: Tensor | None = next(self.children())._parameters.get("weight")
        return torch.float32 if weight is None else weight.dtype

    def plain(self) -> Tensor:
        parts = [(layout, getattr(self, name).weight) for (_, layout, _), name in self.names.items()]
        whole: Tensor = parts[0][1].new_zeros(self.whole)
        for layout, weight in parts:
            _place(whole, layout, weight)
        return whole

    @property
    def device(self) -> torch.device:
        return _device(self)


class ParameterBias(ParameterModule, nn.Module):
    """A parameter that products of other parameters add, and are known to.

    Attributes:
        path: of the parameter.
        value: the parameter.
    """

    path: str
    value: Tensor

    def key_of(self, view: ParameterView) -> BiasKey:
        return self.path, view.offset, view.sizes, view.strides

    def modules_of(self, product: Product) -> Sequence[nn.Module] | None:
        return None

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    def plain(self) -> Tensor:
        return self.value

    @property
    def device(self) -> torch.device:
        return self.value.device


def _spread(weight: Tensor, layout: Layout, shape: Sequence[int]) -> Tensor:
    """The parameter that a weight is all of."""
    _, rows, columns = layout
    if _is_in_order((*rows, *columns)):
        return weight.reshape(shape)
    if len(rows) == len(columns) == 1 and len(shape) == 2:
        return weight.t()
    whole = weight.new_zeros(shape)
    _place(whole, layout, weight)
    return whole


def _is_in_order(dimensions: Sequence[tuple[int, int]]) -> bool:
    return [stride for _, stride in dimensions] == list(contiguous_strides([size for size, _ in dimensions]))


def _place(whole: Tensor, layout: Layout, weight: Tensor) -> None:
    """Write a weight where it lies in its parameter."""
    offset, rows, columns = layout
    sizes, strides = zip(*((*rows, *columns) or ((1, 1),)), strict=True)
    whole.as_strided(sizes, strides, offset).copy_(weight.reshape(sizes))


def _device(module: Any) -> torch.device:
    for child in module.modules():
        for tensor in (*child._parameters.values(), *child._buffers.values()):
            if tensor is not None:
                return tensor.device  # type: ignore[no-any-return]
    return torch.device("cpu")
