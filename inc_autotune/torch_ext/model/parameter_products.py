"""Products with a parameter as modules of their own, which stand in the parameter's place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from inc_autotune.core.errors import RecipeError
from inc_autotune.torch_ext.model.parameter_modules import WHOLE, BiasKey, ParameterBias, ParameterPieces
from inc_autotune.torch_ext.model.parameter_views import Layout, contiguous_strides


@dataclass(frozen=True)
class ParameterProduct:
    """One matrix, kernel or table of a parameter that functions of torch multiply by.

    Args:
        parameter: its path in the model, such as `head.w`.
        piece: which of the parameter's pieces; None: it is one.
        type: of the module that computes the same, such as `Linear`.
        layout: where the elements lie in the parameter, which is numbered in order of its shape.
        geometry: arguments of a convolution by name, in order.
        bias: what every call adds.
        keeps_table: whether the parameter is looked up as well, which goes on in fp32.
    """

    parameter: str
    piece: int | None
    type: str
    layout: Layout
    geometry: tuple[tuple[str, Any], ...] = ()
    bias: BiasKey | None = None
    keeps_table: bool = False

    @property
    def name(self) -> str:
        """Of the module."""
        return self.parameter if self.piece is None else f"{self.parameter}.{self.piece}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a recipe."""
        offset, rows, columns = self.layout
        layout = [offset, _lists(rows), _lists(columns)]
        values: dict[str, Any] = {"parameter": self.parameter, "type": self.type, "layout": layout}
        if self.piece is not None:
            values["piece"] = self.piece
        if self.geometry:
            values["geometry"] = {name: list(v) if isinstance(v, tuple) else v for name, v in self.geometry}
        if self.bias is not None:
            path, start, sizes, strides = self.bias
            values["bias"] = [path, start, list(sizes), list(strides)]
        return {**values, "keeps_table": True} if self.keeps_table else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ParameterProduct:
        """Inverse of `to_dict`."""
        offset, rows, columns = values["layout"]
        bias = values.get("bias")
        return cls(
            parameter=values["parameter"],
            piece=values.get("piece"),
            type=values["type"],
            layout=(offset, tuple(map(tuple, rows)), tuple(map(tuple, columns))),
            geometry=tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in values.get("geometry", {}).items()),
            bias=None if bias is None else (bias[0], bias[1], tuple(bias[2]), tuple(bias[3])),
            keeps_table=bool(values.get("keeps_table")),
        )


def _lists(dimensions: Iterable[tuple[int, int]]) -> list[list[int]]:
    return [list(each) for each in dimensions]


def install_products(model: nn.Module, products: Iterable[ParameterProduct]) -> nn.Module:
    """Put modules in the place of parameters, in place; the numbers stay where they are if their order allows it.

    Args:
        model: a copy of the user's.
        products: all pieces of every parameter that is named.

    Returns:
        The model.

    Raises:
        RecipeError: the model has no such parameter, or one of another shape.
    """
    by_path: dict[str, list[ParameterProduct]] = {}
    for product in products:
        by_path.setdefault(product.parameter, []).append(product)
    if not by_path:
        return model
    places = _Places(model)
    wanted = [*by_path, *(each.bias[0] for pieces in by_path.values() for each in pieces if each.bias is not None)]
    parameters = {path: places.parameter(path) for path in wanted}
    for path, pieces in by_path.items():
        module = _stand_in(pieces, parameters)
        places.put(path, parameters[path], module)
    for path in {each.bias[0] for pieces in by_path.values() for each in pieces if each.bias is not None}:
        bias = ParameterBias()
        bias.path = path
        bias.stand_for(parameters[path])
        bias.register_parameter("value", parameters[path])
        places.put(path, parameters[path], bias)
    return model


class _Places:
    """Where the parameters of a model are."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in self._modules.values():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._owners.setdefault(id(parameter), []).append((module, name))

    def parameter(self, path: str) -> nn.Parameter:
        owner, _, name = path.rpartition(".")
        module = self._modules.get(owner)
        parameter: nn.Parameter | None = None if module is None else module._parameters.get(name)
        if parameter is None:
            raise RecipeError(f"recipe: {path!r} is no parameter of the model. Is it the same model?")
        return parameter

    def put(self, path: str, parameter: nn.Parameter, module: nn.Module) -> None:
        """Stand in for the parameter under all its names but those of torch's own layers, which know how to use it."""
        owner, _, name = path.rpartition(".")
        for each, own in self._owners[id(parameter)]:
            if each is self._modules[owner] and own == name:
                module.train(each.training)
            elif is_layer_of_torch(each):
                continue
            del each._parameters[own]
            # Before its other children, as parameters come before those: of several names, the first stays the first.
            others = dict(each._modules)
            each._modules.clear()
            each._modules.update({own: module, **others})


def is_layer_of_torch(module: nn.Module) -> bool:
    """Whether the class of a module is one of torch's that computes with its parameters."""
    is_container = isinstance(module, (nn.ParameterList, nn.ParameterDict))
    return type(module).__module__.startswith("torch.nn.modules") and not is_container


def _stand_in(pieces: Sequence[ParameterProduct], parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    parameter = parameters[pieces[0].parameter]
    biases = [None if each.bias is None else parameters[each.bias[0]] for each in pieces]
    if pieces[0].piece is None:
        module: Any = _operator(WHOLE[pieces[0].type], pieces[0], parameter, biases[0])
        module.key = (pieces[0].type, pieces[0].layout, pieces[0].geometry)
        if pieces[0].keeps_table:
            module.register_parameter("table", parameter)
    else:
        module = ParameterPieces()
        module.names = {(each.type, each.layout, each.geometry): str(each.piece) for each in pieces}
        for each, bias in zip(pieces, biases, strict=True):
            module.add_module(str(each.piece), _operator(getattr(nn, each.type), each, parameter, bias))
    module.stand_for(parameter)
    return module  # type: ignore[no-any-return]


def _operator(
    cls: Callable[..., nn.Module], product: ParameterProduct, parameter: nn.Parameter, bias: nn.Parameter | None
) -> nn.Module:
    weight = _taken(parameter, product)
    geometry = dict(product.geometry)
    # On the meta device: nothing is drawn, and nothing takes memory.
    if product.type == "Linear":
        module = cls(weight.shape[1], weight.shape[0], bias=False, device="meta")
    elif product.type == "Embedding":
        module = cls(weight.shape[0], weight.shape[1], device="meta")
    else:
        channels = weight.shape[1] * geometry["groups"], weight.shape[0]
        if product.type.startswith("ConvTranspose"):
            channels = weight.shape[0], weight.shape[1] * geometry["groups"]
        module = cls(*channels, tuple(weight.shape[2:]), bias=False, device="meta", **geometry)
    module.register_parameter("weight", weight)
    if bias is not None and product.bias is not None:
        _, offset, sizes, strides = product.bias
        own = bias if sizes == tuple(bias.shape) else _part(bias, sizes, strides, offset)
        module.register_parameter("bias", own)
        object.__setattr__(module, "adds", product.bias)
    return module.eval()


def _taken(parameter: nn.Parameter, product: ParameterProduct) -> nn.Parameter:
    """The weight of a module as a view of the parameter, or the parameter itself; a copy if its order forbids that."""
    offset, rows, columns = product.layout
    sizes, strides = zip(*((*rows, *columns) or ((1, 1),)), strict=True)
    shape = sizes if product.type != "Linear" else (_count(rows), _count(columns))
    if offset + sum((size - 1) * stride for size, stride in (*rows, *columns)) >= parameter.numel():
        raise RecipeError(
            f"recipe: {product.parameter!r} has shape {list(parameter.shape)} in the model, which does not fit "
            f"{product.name!r}. Is it the same model?"
        )
    if tuple(parameter.shape) == tuple(shape) and strides == contiguous_strides(sizes):
        return parameter
    part = _part(parameter, sizes, strides, offset)
    return part if tuple(part.shape) == tuple(shape) else nn.Parameter(part.detach().reshape(shape), part.requires_grad)


def _part(parameter: nn.Parameter, sizes: Sequence[int], strides: Sequence[int], offset: int) -> nn.Parameter:
    whole = parameter.detach().contiguous()
    part = whole.as_strided(sizes, strides, whole.storage_offset() + offset)
    return nn.Parameter(part, parameter.requires_grad and not parameter.is_inference())


def _count(dimensions: Iterable[tuple[int, int]]) -> int:
    count = 1
    for size, _ in dimensions:
        count *= size
    return count
