"""Which parameters functions of torch multiply by, found in one watched forward pass, and why others cannot follow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inc_autotune.torch_ext.data import Batch, call
from inc_autotune.torch_ext.model import AddressMap, EagerDispatchMode, tensors_in
from inc_autotune.torch_ext.model.parameter_modules import BiasKey
from inc_autotune.torch_ext.model.parameter_products import ParameterProduct, is_layer_of_torch
from inc_autotune.torch_ext.model.parameter_views import Dimensions, Layout, ParameterView
from inc_autotune.torch_ext.model.products import read_product
from inc_autotune.torch_ext.model.untouched import untouched
from inc_autotune.torch_ext.operators.other_weights import is_weight
from inc_autotune.torch_ext.operators.types import WEIGHT_DTYPES, operator_type


@dataclass(frozen=True)
class FoundProducts:
    """Products that can become modules, and parameters that cannot.

    Args:
        products: all pieces of every parameter.
        refused: why not, by the parameter's path.
    """

    products: tuple[ParameterProduct, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def without(self, reasons: Mapping[str, str]) -> FoundProducts:
        """The same with some parameters refused."""
        left = tuple(each for each in self.products if each.parameter not in reasons)
        return FoundProducts(left, {**self.refused, **reasons})


class _Use(NamedTuple):
    """A product that one call computed."""

    kind: str
    layouts: tuple[Layout, ...]
    geometry: tuple[tuple[str, Any], ...]
    bias: BiasKey | None
    has_other_bias: bool


def candidate_parameters(model: nn.Module, foreign: Collection[str]) -> dict[str, nn.Parameter]:
    """Weights, by path, that may be used by functions of torch rather than by a layer of a known type.

    Args:
        model: weights computed, batch norms as they are.
        foreign: names of layers of a known type with a weight that is read outside of them.
    """
    found: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        known = operator_type(module) is not None
        has_one_weight = known and "weight" in module._parameters
        if (has_one_weight and path not in foreign) or (not has_one_weight and is_layer_of_torch(module)):
            continue
        for name, parameter in module._parameters.items():
            if parameter is None or nn.parameter.is_lazy(parameter) or not is_weight(parameter):
                continue
            plain = parameter.dtype in WEIGHT_DTYPES and parameter.layout == torch.strided and not parameter.is_meta
            if plain and not any(parameter is other for other in found.values()):
                found[f"{path}.{name}" if path else name] = parameter
    return found


def find_products(model: nn.Module, candidates: Mapping[str, nn.Parameter], batch: Batch) -> FoundProducts:
    """Run a model once and see what it does with some of its parameters.

    Args:
        model: a copy; parameters with odd strides get memory of their own.
        candidates: parameters of the model by path.
        batch: inputs.
    """
    for parameter in candidates.values():
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()
    reads = _Reads(candidates, _vectors(model, candidates))
    uses = _Uses(reads)
    inputs = batch.copy()
    with untouched(model), reads, uses:
        call(model, inputs)
    products: list[ParameterProduct] = []
    refused: dict[str, str] = {}
    for path, parameter in candidates.items():
        if path not in uses.found and path not in reads.others:
            refused[path] = "is not used in the first calibration batch"
            continue
        decided = _decided(path, parameter, uses.found.get(path, []), reads)
        if isinstance(decided, str):
            refused[path] = decided
        else:
            products += decided
    return FoundProducts(tuple(products), refused)


def _vectors(model: nn.Module, candidates: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Parameters beside the candidates that may be their biases."""
    owners = {path.rpartition(".")[0] for path in candidates}
    return {
        f"{path}.{name}" if path else name: parameter
        for path, module in model.named_modules()
        if path in owners
        for name, parameter in module._parameters.items()
        if parameter is not None
        and f"{path}.{name}".lstrip(".") not in candidates
        and parameter.dtype in WEIGHT_DTYPES
        and parameter.is_contiguous()
    }


class _Reads(EagerDispatchMode):
    """Notes which operators read a parameter, other than through a view or inside a product that is known."""

    supports_higher_order_operators = True

    def __init__(self, weights: Mapping[str, nn.Parameter], biases: Mapping[str, nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        every = {**biases, **weights}
        self._map = AddressMap((parameter, path) for path, parameter in every.items())
        self._starts = {path: parameter.data_ptr() for path, parameter in every.items()}
        self.weights, self.biases = weights, biases
        self.others: dict[str, str] = {}
        self._allowed: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not getattr(func, "is_view", False):
            for tensor in (*tensors_in(args), *tensors_in(kwargs or {})):
                for path in self._map.find(tensor):
                    if path not in self._allowed:
                        self.others.setdefault(path, str(func).removesuffix(".default"))
        return func(*args, **(kwargs or {}))

    @contextmanager
    def allowing(self, *paths: str | None) -> Iterator[None]:
        """A block in which these parameters may be read."""
        before = self._allowed
        self._allowed = before | {path for path in paths if path is not None}
        try:
            yield
        finally:
            self._allowed = before

    def view(self, value: Any, among: Mapping[str, nn.Parameter]) -> ParameterView | None:
        """The parameter that a tensor is a view of."""
        if not isinstance(value, Tensor) or value.dtype not in WEIGHT_DTYPES or value.layout != torch.strided:
            return None
        for path in self._map.find(value):
            if path in among:
                offset = (value.data_ptr() - self._starts[path]) // value.element_size()
                return ParameterView(path, value.shape, value.stride(), offset)
        return None


class _Uses(TorchFunctionMode):
    """Notes the products of each weight."""

    def __init__(self, reads: _Reads) -> None:
        super().__init__()
        self._reads = reads
        self.found: dict[str, list[_Use]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        product = read_product(func, args, kwargs, lambda value: self._reads.view(value, self._reads.weights))
        if product is None:
            return func(*args, **kwargs)
        bias = None if product.bias is None else self._reads.view(product.bias, self._reads.biases)
        key = None if bias is None else (bias.source, bias.offset, bias.sizes, bias.strides)
        other = product.bias is not None and bias is None
        self.found.setdefault(product.source, []).append(
            _Use(product.kind, product.layouts, product.geometry, key, other)
        )
        with self._reads.allowing(product.source, None if bias is None else bias.source):
            return func(*args, **kwargs)


def _decided(path: str, parameter: nn.Parameter, uses: Sequence[_Use], reads: _Reads) -> list[ParameterProduct] | str:
    """The products of one parameter, or why it has none."""
    if path in reads.others:
        return f"also read by {reads.others[path]}" if uses else f"read by {reads.others[path]}"
    forms = list(dict.fromkeys((use.kind, layout, use.geometry) for use in uses for layout in use.layouts))
    looked_up = [form for form in forms if form[0] == "Embedding"]
    multiplied = [form for form in forms if form[0] != "Embedding"]
    if looked_up and len(multiplied) != 1:
        forms = looked_up if not multiplied else forms
    elif looked_up:
        forms = multiplied
    pieces = _all_blocks(forms, parameter) if len(forms) > 1 or not _covers(forms, parameter) else forms
    if pieces is None:
        if len({*forms}) > 1 and _overlap(forms, parameter):
            return "it takes part in products of several forms"
        return "only a part of it is used in products"
    if looked_up and multiplied and len(pieces) > 1:
        return "it is looked up, and its pieces take part in products"
    return [
        ParameterProduct(
            parameter=path,
            piece=None if len(pieces) == 1 else index,
            type=kind,
            layout=layout,
            geometry=geometry,
            bias=_common_bias([use for use in uses if layout in use.layouts], reads),
            keeps_table=bool(looked_up and multiplied),
        )
        for index, (kind, layout, geometry) in enumerate(pieces)
    ]


_Form = tuple[str, Layout, tuple[tuple[str, Any], ...]]


def _common_bias(uses: Sequence[_Use], reads: _Reads) -> BiasKey | None:
    """The bias that every product of a weight adds, and that nothing else reads."""
    found = {None if use.has_other_bias else use.bias for use in uses}
    bias = found.pop() if len(found) == 1 else None
    return bias if bias is not None and bias[0] not in reads.others and len(bias[2]) == 1 else None


def _all_blocks(forms: Sequence[_Form], parameter: Tensor) -> list[_Form] | None:
    """Pieces that make up the parameter: those that were used, or, of equal blocks one behind the other, all."""
    forms = sorted(forms, key=lambda form: form[1][0])
    if _covers(forms, parameter):
        return list(forms)
    (kind, (start, rows, columns), geometry), *others = forms
    block = _count((*rows, *columns))
    alike = all((each[0], each[1][1:], each[2]) == (kind, (rows, columns), geometry) for each in others)
    placed = all(form[1][0] % block == 0 for form in forms) if block else False
    if not alike or not placed or parameter.numel() % block or start % block or parameter.numel() == block:
        return None
    every: list[_Form] = [(kind, (offset, rows, columns), geometry) for offset in range(0, parameter.numel(), block)]
    return every if _covers(every, parameter) else None


def _covers(forms: Sequence[_Form], parameter: Tensor) -> bool:
    """Whether every element of the parameter is in exactly one of the pieces."""
    return bool((_counts(forms, parameter) == 1).all())


def _overlap(forms: Sequence[_Form], parameter: Tensor) -> bool:
    return bool((_counts(forms, parameter) > 1).any())


def _counts(forms: Sequence[_Form], parameter: Tensor) -> Tensor:
    counts = torch.zeros(parameter.numel(), dtype=torch.uint8)
    for _, (offset, rows, columns), _ in forms:
        sizes, strides = zip(*((*rows, *columns) or ((1, 1),)), strict=True)
        if 0 in strides:  # the same elements several times: no piece
            counts.fill_(2)
            continue
        counts.as_strided(sizes, strides, offset).add_(1)
    return counts


def _count(dimensions: Dimensions) -> int:
    count = 1
    for size, _ in dimensions:
        count *= size
    return count
