"""Python objects named on the command line: `module:object`."""

from __future__ import annotations

import importlib
import re
from typing import Any

from inc_autotune.command_line.errors import UsageError
from inc_autotune.core.errors import did_you_mean

_FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_object_name(text: str) -> bool:
    """Whether a text names a Python object, as `package.module:function` does."""
    return _FORM.fullmatch(text) is not None


def find_object(text: str, option: str) -> Any:
    """The object named `package.module:attribute`; the module is looked for in the working directory too.

    Args:
        text: the name.
        option: that was given it, for messages.

    Raises:
        UsageError: it is no such name, or the module or the object does not exist. What a module raises when it is
            imported is the cause.
    """
    if not is_object_name(text):
        raise UsageError(
            f"{option} {text!r}: names no Python object. Allowed: module:object, such as evaluation:score."
        )
    module_name, _, path = text.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(f"{option} {text!r}: importing {module_name} failed: {error}.") from error
        raise UsageError(
            f"{option} {text!r}: there is no module {module_name!r}. It is looked for in the working directory and "
            "among installed packages."
        ) from error
    except Exception as error:  # whatever a user's module raises
        raise UsageError(
            f"{option} {text!r}: importing {module_name} failed: {type(error).__name__}: {error}."
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            hint = did_you_mean(name, [each for each in dir(found) if not each.startswith("_")])
            raise UsageError(f"{option} {text!r}: {module_name} has no {name!r}.{hint}")
        found = getattr(found, name)
    return found
