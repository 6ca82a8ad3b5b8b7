"""A hash of what a callable does: its code and its settings, the same in every process that runs the same program."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dis import get_instructions
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

DEPTH = 2
"""Objects inside objects inside an object are known by their class alone: a log or a data set has no end."""

_SPECIAL_CALLS = ("__call__", "__iter__", "__next__", "__getitem__", "__len__")
_LIBRARY = __name__.split(".")[0]
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
_INSTALLED = ("site-packages", "dist-packages")


def callable_fingerprint(function: Any) -> str:
    """A hash of a function, a method, a `functools.partial` or an object that can be called.

    It covers bytecode, constants and names, and those of the functions and classes that the code refers to; numbers
    and texts that it was given as default values, in a `functools.partial` or as attributes of its object. Not covered
    are numbers and texts that it reads from around it (they may name the process, or the day), data (arrays, lists,
    dicts: they may be large, or grow with each call), what a call itself assigns (a counter), the place of the code in
    its file, and paths of files. Code of installed packages is known by its name.
    """
    return Describer().digest(function)


class Describer:
    """Describes Python values as JSON can hold them, with no address and no order that could differ.

    Args:
        thorough: whether the content of lists, dicts and sets counts, and numbers and texts that code reads from
            around it.
        described_array: describes what the framework calls an array; None for whatever is none. Without it an array
            is known by its type.
    """

    def __init__(
        self, *, thorough: bool = False, described_array: Callable[[Any], str | None] = lambda value: None
    ) -> None:
        self._thorough = thorough
        self._described_array = described_array
        # The values are kept too, since an address may be used again.
        self._seen: dict[tuple[int, bool], tuple[int, Any]] = {}

    def digest(self, value: Any) -> str:
        """The hash of a value's description."""
        return hashlib.sha256(json.dumps(self.of(value), sort_keys=True).encode()).hexdigest()

    def of(self, value: Any, depth: int = DEPTH) -> Any:
        """The description of any value.

        Args:
            depth: how many objects inside each other are looked into; below 0 only code counts, and not values.
        """
        if value is None or isinstance(value, _PLAIN):
            return _plain(value) if depth >= 0 else type(value).__name__
        array = self._described_array(value)
        if array is not None:
            return array
        if isinstance(value, (tuple, frozenset)):
            return self._container(value, depth)
        if isinstance(value, (list, set, Mapping)) and not self._thorough:
            return _name(type(value))
        key = (id(value), depth >= 0)
        if key in self._seen:
            return f"seen {self._seen[key][0]}"
        self._seen[key] = (len(self._seen), value)
        return self._once(value, depth)

    def settings(
        self, owner: Any, entries: Collection[str], *, skipped: Collection[str] = (), depth: int = DEPTH
    ) -> dict[str, Any]:
        """The attributes of an object by name, without those that its methods `entries` assign, or methods these use.

        What a call assigns is what it remembers, and differs before and after it.

        Args:
            skipped: attributes to leave out.
            depth: as in `of`.
        """
        left_out = {*skipped, *_assigned_by(type(owner), entries)}
        return {name: self.of(each, depth) for name, each in sorted(vars(owner).items()) if name not in left_out}

    def _once(self, value: Any, depth: int) -> Any:
        if isinstance(value, (list, set, Mapping)):
            return self._container(value, depth)
        if isinstance(value, functools.partial):
            bound = {name: self.of(each, depth) for name, each in value.keywords.items()}
            return ["partial", self.of(value.func, depth), self.of(value.args, depth), bound]
        if isinstance(value, MethodType):
            return ["method", self.of(value.__func__, depth), self.of(value.__self__, depth)]
        if isinstance(value, FunctionType):
            return ["function", self._function(value, depth)]
        if isinstance(value, type):
            return ["class", self._class(value)]
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, BuiltinFunctionType):
            return value.__qualname__
        wrapped = getattr(value, "__wrapped__", None)
        if callable(wrapped):  # such as functools.cache
            return [_name(type(value)), self.of(wrapped, depth)]
        return self._object(value, depth)

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return ["mapping", sorted(([repr(key), self.of(each, depth)] for key, each in value.items()), key=str)]
        elements = [self.of(each, depth) for each in value if depth >= 0 or not isinstance(each, _PLAIN)]
        return [type(value).__name__, sorted(elements, key=str) if isinstance(value, (set, frozenset)) else elements]

    def _function(self, function: FunctionType, depth: int) -> dict[str, Any]:
        code = function.__code__
        assigned = _assigned(code)
        installed = _is_installed(function.__module__)
        # What a library's function holds is what the user gave to it: a decorator holds the function it decorates.
        around_depth = depth if installed or self._thorough else -1
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        keywords = sorted((function.__kwdefaults__ or {}).items())
        found: dict[str, Any] = {
            "name": function.__qualname__,
            "defaults": [self.of(each, max(depth, 0)) for each in function.__defaults__ or ()],
            "keyword defaults": {name: self.of(each, max(depth, 0)) for name, each in keywords},
            "closure": {name: self._cell(cell, around_depth) for name, cell in cells if name not in assigned},
        }
        if installed:
            return {**found, "module": function.__module__}
        around = function.__globals__
        used = {name for name in _names(code) if name in around and name not in assigned and not _is_special(name)}
        found["code"] = _described_code(code)
        found["globals"] = {name: self.of(around[name], around_depth) for name in sorted(used)}
        return found

    def _cell(self, cell: Any, depth: int) -> Any:
        try:
            return self.of(cell.cell_contents, depth)
        except ValueError:  # not assigned yet
            return "empty"

    def _class(self, described: type) -> list[Any]:
        """The classes it inherits from by name, those of the user with their methods and constants."""
        found: list[Any] = []
        for each in described.__mro__:
            members: dict[str, Any] = {}
            for name, member in () if _is_installed(each.__module__) else sorted(vars(each).items()):
                for part in _functions_of(member):
                    members[name] = self.of(part)
                if isinstance(member, (bool, int, float, str, tuple)) and not _is_special(name):
                    members[name] = self.of(member)
            found.append([_name(each), members])
        return found

    def _object(self, value: Any, depth: int) -> Any:
        described = [_name(type(value)), self.of(type(value), depth)]
        if depth <= 0:
            return described
        to_dict = getattr(value, "to_dict", None) if self._thorough else None
        if callable(to_dict):  # a configuration, as the transformers library has them
            content = {name: each for name, each in to_dict().items() if not str(name).startswith("_")}
            return [*described, self.of({**content, "transformers_version": None}, depth - 1)]
        if not hasattr(value, "__dict__"):
            return [*described, _short(value)]
        entries = [name for name in dir(type(value)) if name in _SPECIAL_CALLS or not name.startswith("_")]
        return [*described, self.settings(value, entries, depth=depth - 1)]


_PLAIN = (bool, int, float, complex, bytes, str, PurePath, Enum, np.generic)


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, PurePath) or (isinstance(value, str) and os.path.isabs(value)):
        return "path"  # where something lies, not what it is; often a temporary folder
    return f"{type(value).__name__} {value!r}"


def _short(value: Any) -> str:
    """How an object without attributes, such as a dtype, shows itself; nothing for data and for what has an address."""
    shown = "" if hasattr(value, "shape") or isinstance(value, Iterator) else repr(value)
    return "" if "0x" in shown else shown


def _name(of: type) -> str:
    return f"{of.__module__}.{of.__qualname__}"


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_installed(module: str | None) -> bool:
    """Whether code belongs to a package, whose version tells what it does, and not to the user's program."""
    if module is None or module.split(".")[0] == _LIBRARY:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # built in, or typed into a shell
        return module in sys.builtin_module_names
    return file.startswith(_STANDARD_LIBRARY) or any(part in file for part in _INSTALLED)


def _functions_of(member: Any) -> Iterator[FunctionType]:
    """The functions behind a class's attribute: a method, one of the class, or those of a property."""
    for each in (member, getattr(member, "__func__", None), *(getattr(member, part, None) for part in _ACCESSORS)):
        if isinstance(each, FunctionType):
            yield each


_ACCESSORS = ("fget", "fset", "func")


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> set[str]:
    return {name for each in _codes(code) for name in each.co_names}


def _described_code(code: CodeType) -> list[Any]:
    # Neither the file nor the lines.
    return [
        code.co_code.hex(),
        list(map(_described_constant, code.co_consts)),
        *([*names] for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)),
        [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags],
    ]


def _described_constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _described_code(constant)
    if isinstance(constant, (tuple, frozenset)):
        elements = list(map(_described_constant, constant))
        return [type(constant).__name__, sorted(elements, key=str) if isinstance(constant, frozenset) else elements]
    return f"{type(constant).__name__} {constant!r}"


_STORES = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")


@functools.cache
def _assigned(code: CodeType) -> frozenset[str]:
    """Globals, variables around a function and attributes that its code assigns."""
    return frozenset(
        instruction.argval
        for each in _codes(code)
        for instruction in get_instructions(each)
        if instruction.opname in _STORES
    )


def _assigned_by(owner: type, entries: Collection[str]) -> set[str]:
    """Attributes that methods of a class assign, or methods that these use."""
    assigned: set[str] = set()
    left, known = list(entries), set(entries)
    while left:
        for function in _functions_of(inspect.getattr_static(owner, left.pop(), None)):
            code = inspect.unwrap(function).__code__
            assigned |= _assigned(code)
            used = _names(code) - known
            known |= used
            left += used
    return assigned
