"""How an item of a data loader becomes the arguments of a model call: which part is input, which is the label."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from inc_autotune.core.data import LABEL_NAMES, Reading
from inc_autotune.core.errors import did_you_mean
from inc_autotune.torch_ext.model import tensors_in


def forward_signature(model: nn.Module) -> inspect.Signature | None:
    """Signature of the model's `forward`, None when Python cannot tell it."""
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def signature_text(model: nn.Module) -> str:
    """`Net.forward(x, mask=None)`, without annotations."""
    signature = forward_signature(model)
    if signature is None:
        return f"{type(model).__name__}.forward(...)"
    empty = inspect.Parameter.empty
    bare = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return f"{type(model).__name__}.forward{text}"


def possible_readings(item: Any, model: nn.Module, *, need_label: bool = False) -> list[Reading]:
    """The readings with arguments that fit the signature of the model's `forward`, the most likely first.

    A tuple or list of two or more elements may end with a label. The last element is a label if `forward` could not
    take it, or would take it as an optional parameter and either the parameter has a label's name or the element looks
    like a label next to the first input: a number, a tensor with fewer than two dimensions, a mask that is not made of
    zeros and ones, a tensor with other first two dimensions. It is no label if `forward` requires the parameter.

    Args:
        item: with tensors for arrays.
        need_label: only readings that yield a label, and label entries of a dict are taken out first.
    """
    signature = forward_signature(model)
    if isinstance(item, Mapping):
        readings = [*_keyword_readings(item, signature, need_label), *([] if need_label else [Reading("single")])]
    elif isinstance(item, (tuple, list)):
        readings = _sequence_readings(item, signature, need_label)
    else:
        readings = [] if need_label else [Reading("single")]
    return [reading for reading in dict.fromkeys(readings) if _binds(signature, reading, item)]


def _sequence_readings(item: Any, signature: inspect.Signature | None, need_label: bool) -> list[Reading]:
    first = item[0]
    if len(item) == 1:
        inner = _input_readings(first, signature, need_label, wrapped=True)
        return [reading for reading in inner if reading.form == "keywords"] if need_label else inner
    rest: Any = first if len(item) == 2 else item[:-1]
    labelled = _input_readings(rest, signature, False, labelled=True)
    if need_label:
        return labelled
    plain = [Reading("elements"), Reading("single")]
    return [*labelled, *plain] if _ends_with_label(item, signature) else [plain[0], *labelled, plain[1]]


def _input_readings(
    inputs: Any, signature: inspect.Signature | None, need_label: bool, *, labelled: bool = False, wrapped: bool = False
) -> list[Reading]:
    single = Reading("single", labelled, wrapped)
    if isinstance(inputs, Mapping):
        keywords = _keyword_readings(inputs, signature, need_label)
        return [*(Reading("keywords", labelled, wrapped, each.dropped) for each in keywords), single]
    if isinstance(inputs, (tuple, list)):
        return [Reading("elements", labelled, wrapped), single]
    return [single]


def _keyword_readings(item: Mapping[str, Any], signature: inspect.Signature | None, need_label: bool) -> list[Reading]:
    labels = frozenset(key for key in item if key in LABEL_NAMES)
    if need_label and not labels:
        return []
    unknown = frozenset(key for key in labels if signature is not None and key not in signature.parameters)
    without, kept = Reading("keywords", dropped=labels), Reading("keywords", dropped=unknown)
    return [without, kept] if need_label else [kept, without, Reading("keywords")]


def _ends_with_label(item: Any, signature: inspect.Signature | None) -> bool:
    first, last = item[0], item[-1]
    parameter = _positional_parameter(signature, len(item) - 1)
    if len(item) == 2 and isinstance(first, (Mapping, tuple, list)):
        return True
    if parameter is None or not isinstance(last, Tensor):
        return parameter is None or parameter.default is not inspect.Parameter.empty
    if parameter.default is inspect.Parameter.empty:
        return False
    if parameter.name in LABEL_NAMES:
        return True
    beside = next(tensors_in(first), None)
    if beside is None:
        return False
    if last.ndim < 2 <= beside.ndim:
        return True
    if "mask" in parameter.name and not last.is_floating_point() and not bool(((last == 0) | (last == 1)).all()):
        return True
    return last.shape[:2] != beside.shape[:2]


def _positional_parameter(signature: inspect.Signature | None, index: int) -> inspect.Parameter | None:
    if signature is None:
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in signature.parameters.values() if parameter.kind in kinds]
    return positional[index] if index < len(positional) else None


def _binds(signature: inspect.Signature | None, reading: Reading, item: Any) -> bool:
    try:
        args, kwargs, _ = reading.parse(item)
        if signature is not None:
            signature.bind(*args, **kwargs)
    except (TypeError, ValueError, IndexError):
        return False
    return True


def unknown_keys(item: Any, model: nn.Module) -> str:
    """A sentence for every key of a dict item that is no named parameter of `forward`; empty if all keys are."""
    signature = forward_signature(model)
    while isinstance(item, (tuple, list)) and item:
        item = item[0]
    if signature is None or not isinstance(item, Mapping):
        return ""
    keyword = inspect.Parameter.VAR_KEYWORD
    names = [parameter.name for parameter in signature.parameters.values() if parameter.kind is not keyword]
    unknown = [key for key in item if key not in names and key not in LABEL_NAMES]
    return " ".join(f"{key!r} is no parameter of forward.{did_you_mean(key, names)}" for key in unknown)
