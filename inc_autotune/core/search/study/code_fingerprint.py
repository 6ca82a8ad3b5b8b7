"""A hash of what a callable does: its code and its settings, the same in every process that runs the same program.

It changes with:

1. The function's bytecode: every edit but comments, layout and the place in the file; another version of Python.
2. The bytecode of the user's functions and classes that it names, as `helper` or `module.helper`, and that these name
   in turn. A class has its methods, constants and bases.
3. What the function was given: default values, arguments of a `functools.partial`, variables of the functions around
   it (its closure), attributes of its object. Numbers, texts, dtypes and tuples count by their value, functions and
   classes as in 1 and 2; an object by its class and, if the class is the user's or the object can be called, by its
   attributes.

It does not change with:

4. Global variables that cannot be called: they may name the process or the day. They count by their class.
5. The content of data: lists, dicts, sets, arrays and other objects of installed packages count by their class.
6. What a call remembers: closure variables that the function assigns, and attributes that a method assigns, unless it
   is `__init__` or is called there; cached properties.
7. Absolute paths.
8. The code of installed packages: their functions and classes count by their names.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dis import get_instructions
from enum import Enum
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_LIBRARY = __name__.split(".")[0]
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
_PLAIN = (bool, int, float, complex, bytes, str, Enum, np.generic, np.dtype, type(None), type(...))
_HOLDERS = (functools.partial, MethodType, staticmethod, classmethod, property, functools.cached_property)
_HELD = ("func", "args", "__func__", "__self__", "fget", "fset")


def callable_fingerprint(function: Any) -> str:
    """The hash of a function, a method, a `functools.partial` or an object that can be called."""
    fingerprint = Fingerprint()
    return fingerprint.digest(fingerprint.describe(function))


class Fingerprint:
    """Describes values as JSON can hold them, with no address and no order that could differ between processes.

    Everything but plain values is described once and referred to by a number, so references may form a circle.
    """

    counts_globals = False
    """Whether the values of all global variables count (instead of rule 4)."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        # Keeps the values alive: the address of a deleted one may be used again.
        self._numbered: list[Any] = []

    def digest(self, description: Any) -> str:
        """The hash of a description and of all values that it refers to."""
        # More values are numbered while the first ones are described.
        descriptions = [description, *(self._describe_numbered(value) for value in self._numbered)]
        return hashlib.sha256(json.dumps(descriptions, sort_keys=True).encode()).hexdigest()

    def describe(self, value: Any) -> Any:
        """A plain value as text, any other one as a number."""
        if isinstance(value, tuple):
            return [self.describe(element) for element in value]
        if isinstance(value, PurePath) or (isinstance(value, str) and os.path.isabs(value)):
            return "path"
        if _is_plain(value) or isinstance(value, frozenset):
            return _describe_constant(value)
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._numbered)
            self._numbered.append(value)
        return self._numbers[id(value)]

    def describe_all(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The description of each value by its name."""
        return {name: self.describe(value) for name, value in sorted(values.items())}

    def remembered(self, kind: type) -> set[str]:
        """The attributes of rule 6."""
        set_up = called_in("__init__", kind)
        cached = (name for name, member in _members(kind) if isinstance(member, functools.cached_property))
        return set(cached).union(*(assigned(code, "STORE_ATTR") for name, code in methods(kind) if name not in set_up))

    def _describe_numbered(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return self._describe_function(value)
        if isinstance(value, type):
            return self._describe_class(value)
        if isinstance(value, _HOLDERS):
            held = {name: getattr(value, name) for name in _HELD if hasattr(value, name)}
            return [type(value).__name__, self.describe_all(held), self.describe_all(getattr(value, "keywords", {}))]
        return self.describe_object(value)

    def _describe_function(self, function: FunctionType) -> list[Any]:
        code, module = function.__code__, function.__globals__
        closure = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if name not in assigned(code, "STORE_DEREF"):
                with suppress(ValueError):  # a variable that has no value yet
                    closure[name] = cell.cell_contents
        if _is_installed(module.get("__name__")):
            # The closure of a package's decorator holds the user's function.
            return [function.__module__, function.__qualname__, self.describe_all(closure)]
        defaults = [self.describe(function.__defaults__), self.describe_all(function.__kwdefaults__ or {})]
        return [_describe_code(code), defaults, self.describe_all(closure), list(self._describe_named(code, module))]

    def _describe_named(self, code: CodeType, module: Mapping[str, Any]) -> Iterator[Any]:
        """What code names in its module, and in the user's modules that it names."""
        names = {name for name in _names(code) - assigned(code, "STORE_GLOBAL") if not name.startswith("__")}
        modules = [module]
        for namespace in modules:
            for name in sorted(names & namespace.keys()):
                value = namespace[name]
                if isinstance(value, ModuleType):
                    if not _is_installed(value.__name__) and all(vars(value) is not known for known in modules):
                        modules.append(vars(value))
                else:
                    yield name, self.describe(value if callable(value) or self.counts_globals else type(value))

    def _describe_class(self, described: type) -> list[Any]:
        names = [described.__module__, described.__qualname__]
        if _is_installed(described.__module__):
            return names
        remembered = self.remembered(described)
        members = {
            name: member
            for name, member in vars(described).items()
            if name not in remembered and (isinstance(member, FunctionType) or not name.startswith("__"))
        }
        return [names, self.describe(described.__bases__), self.describe_all(members)]

    def describe_object(self, value: Any) -> list[Any]:
        """Class and attributes, by rules 3 and 5."""
        kind = type(value)
        description = [self.describe(kind)]
        if callable(value):  # such as a builtin function
            description += [str(getattr(value, name, "")) for name in ("__module__", "__qualname__", "__name__")]
        if callable(value) or not _is_installed(kind.__module__):
            slots = (slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ()))
            settings = {*getattr(value, "__dict__", ()), *slots} - self.remembered(kind)
            description.append(self.describe_all({name: getattr(value, name, None) for name in settings}))
        return description


@functools.cache
def assigned(code: CodeType, operation: str) -> frozenset[str]:
    """Names that code, or code inside it, assigns by an operation such as `STORE_ATTR`."""
    instructions = (instruction for part in _codes(code) for instruction in get_instructions(part))
    return frozenset(instruction.argval for instruction in instructions if instruction.opname == operation)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> set[str]:
    return {name for part in _codes(code) for name in part.co_names}


def _describe_code(code: CodeType) -> list[Any]:
    """All of the code but its file and lines."""
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    return [code.co_code.hex(), [_describe_constant(constant) for constant in code.co_consts], names, counts]


def _describe_constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _describe_code(value)
    if isinstance(value, tuple):
        return [_describe_constant(element) for element in value]
    if isinstance(value, frozenset):
        return sorted((_describe_constant(element) for element in value), key=str)
    shown = value.name if isinstance(value, Enum) else repr(value) if _is_plain(value) else ""
    return f"{type(value).__module__}.{type(value).__qualname__} {shown}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or type(value).__name__ in ("dtype", "DType")  # of torch and TensorFlow


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    return (item for base in kind.__mro__ for item in vars(base).items())


def methods(kind: type) -> Iterator[tuple[str, CodeType]]:
    """Names and code of the methods and properties of a class, those of its bases too."""
    for name, member in _members(kind):
        for function in (member, *(getattr(member, held, None) for held in ("__func__", "fget", "fset", "func"))):
            if isinstance(function, FunctionType):
                yield name, inspect.unwrap(function).__code__


def called_in(entry: str, kind: type) -> set[str]:
    """A method of a class, and everything that it names."""
    return {entry}.union(*(_names(code) for name, code in methods(kind) if name == entry))


def _is_installed(module: str | None) -> bool:
    """Whether code belongs to a package, not to the user's program."""
    if module is None or module.split(".")[0] == _LIBRARY:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # built in, or typed into a shell
        return module in sys.builtin_module_names
    return file.startswith(_STANDARD_LIBRARY) or "site-packages" in file or "dist-packages" in file
