"""What stays of the user's layer in its other forms: class and methods, attributes, buffers, parameters, children."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from inspect import get_annotations
from types import new_class
from typing import Any

from torch import nn

from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.model.copies import CARRIED

_JOINED: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}

_TABLES = ("_parameters", "_buffers", "_modules")

_EVERY_MODULE = frozenset(nn.Module().__dict__)


def joined_class(form: type[nn.Module], layer: type[nn.Module]) -> type[nn.Module]:
    """A class of the form `form` that is a subclass of the user's `layer` too, so that `isinstance` still holds.

    Raises:
        ModelError: Python cannot make it, or both have something of the same name.
    """
    if issubclass(form, layer):
        return form
    if (form, layer) not in _JOINED:
        _JOINED[form, layer] = _join(form, layer)
    return _JOINED[form, layer]


def _join(form: type[nn.Module], layer: type[nn.Module]) -> type[nn.Module]:
    own, inherited = _defined(form), _defined(layer)
    _refuse_clash(own & inherited, form)
    is_plain = layer.__module__.startswith(("torch.nn.", "inc_autotune."))
    name = form.__name__ if is_plain else f"{form.__name__}Of{layer.__name__}"
    body = {"__module__": form.__module__, "__doc__": form.__doc__, "__reduce_ex__": _reduce, "_joined": (form, layer)}
    try:
        cls: type[nn.Module] = new_class(name, (form, layer), exec_body=lambda namespace: namespace.update(body))
    except Exception as error:  # a metaclass or `__init_subclass__` of the user's may raise anything
        raise ModelError(f"{layer.__qualname__} cannot be subclassed: {type(error).__name__}: {error}") from error
    return cls


def become(module: nn.Module, form: type[nn.Module], layer: type[nn.Module]) -> None:
    """Give a module the class of a form of the user's layer."""
    object.__setattr__(module, "__class__", joined_class(form, layer))


def names_of(module: nn.Module) -> Iterator[str]:
    """Names of the attributes, parameters, buffers and children that an object has by itself, but for torch's own."""
    yield from (name for name in module.__dict__ if name not in _EVERY_MODULE)
    for table in _TABLES:
        yield from module.__dict__[table]


def carry_over(source: nn.Module, target: nn.Module, names: Collection[str]) -> None:
    """Give `target` what `source` has under these names; it becomes a part of what the form has from the layer."""
    for name in names:
        if name in source.__dict__:
            target.__dict__[name] = source.__dict__[name]
        for table in _TABLES:
            if name in source.__dict__[table]:
                target.__dict__[table][name] = source.__dict__[table][name]
        if name in source._non_persistent_buffers_set:
            target._non_persistent_buffers_set.add(name)
    target.__dict__[CARRIED] = frozenset(names)


def carried(module: nn.Module) -> frozenset[str]:
    """Names of what a form has from the user's layer."""
    names: frozenset[str] = module.__dict__.get(CARRIED, frozenset())
    return names


def refuse_reserved(module: nn.Module, form: type[nn.Module]) -> None:
    """Raise a ModelError if a layer has something under a name that its form needs for itself."""
    _refuse_clash(_defined(form).intersection(names_of(module)), form)


def _refuse_clash(names: Collection[str], form: type[nn.Module]) -> None:
    if names:
        raise ModelError(f"its attribute {min(names)!r} has a name that {form.__name__} needs; give it another name")


def _defined(cls: type[nn.Module]) -> set[str]:
    """What the classes below torch's own define and torch's do not."""
    names: set[str] = set()
    known: set[str] = set()
    for each in cls.__mro__:
        if each.__module__.startswith("torch.") or each is object:
            known.update(vars(each))
        else:
            names.update(vars(each), get_annotations(each))
    return {name for name in names - known if not name.startswith("__") and name not in ("weight", "bias")}


def _reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """For copies and pickles: the class is made again, since no name leads to it."""
    state = getattr(module, "__getstate__", module.__dict__.copy)()
    return _empty, tuple(_parts(type(module))), state


def _parts(cls: type[nn.Module]) -> Iterator[type[nn.Module]]:
    """The classes that a joined one was made of, step by step, the layer's last; names lead to these."""
    joined = cls.__dict__.get("_joined")
    while joined is not None:
        yield joined[0]
        cls = joined[1]
        joined = cls.__dict__.get("_joined")
    yield cls


def _empty(*parts: type[nn.Module]) -> nn.Module:
    cls = parts[-1]
    for form in reversed(parts[:-1]):
        cls = joined_class(form, cls)
    module: nn.Module = cls.__new__(cls)
    return module
