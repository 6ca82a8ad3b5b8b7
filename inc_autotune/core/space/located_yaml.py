"""YAML that remembers where each value stands, so that an error can name file and line."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import CapabilityError
from inc_autotune.core.files import read_bytes

# Far above any capability. A few lines with aliases can stand for more values than fit into memory.
MOST_CHARACTERS = 1 << 18
MOST_VALUES = 20_000

_TOO_LARGE = f"{{}}: the file is too large. Allowed: {MOST_CHARACTERS} characters."

_MERGE = "tag:yaml.org,2002:merge"

Steps = tuple[str | int, ...]
"""The way from the root to a value: keys of mappings, indices of lists."""


@dataclass(frozen=True)
class Document:
    """Plain data and where it comes from. Nobody changes the data: the next who reads the same text gets it again.

    Args:
        data: dicts, lists and scalars.
        source: the file as it was named, or a description of where else the data comes from.
        lines: line in the file by `Steps`; empty for data that is from no file.
    """

    data: Any
    source: str
    lines: Mapping[Steps, int] = field(default_factory=dict)

    def error(self, steps: Steps, problem: str) -> CapabilityError:
        """An error `source:line: key.key: problem` about the value at `steps`."""
        line = next((self.lines[steps[:end]] for end in range(len(steps), -1, -1) if steps[:end] in self.lines), None)
        place = self.source if line is None else f"{self.source}:{line}"
        keys = ".".join(step for step in steps if isinstance(step, str))
        return CapabilityError(f"{place}: {keys}: {problem}" if keys else f"{place}: {problem}")


def load_yaml(path: Path, source: str | None = None) -> Document:
    """Read one YAML document.

    Args:
        path: the file.
        source: its name in messages; default: `path`.

    Raises:
        CapabilityError: the file cannot be read, is empty, too large or not YAML, or a mapping in it has a key twice.
    """
    source = source or str(path)
    try:
        text = read_bytes(path, 4 * MOST_CHARACTERS).decode()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise CapabilityError(_TOO_LARGE.format(source)) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise CapabilityError(
            f"{source}: the file cannot be read: {reason}. Give capability= the path of a YAML file, or a dict."
        ) from error
    if len(text) > MOST_CHARACTERS:
        raise CapabilityError(_TOO_LARGE.format(source))
    return _parsed(text, source)


# A framework's own capability is read for every model: parsing it again would be a twentieth of tuning a small one.
@lru_cache(maxsize=8)
def _parsed(text: str, source: str) -> Document:
    lines: dict[Steps, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        loader.name = source
        root = loader.get_single_node()
        if root is not None:
            _count(root, (), {})
        data = None if root is None else _located(loader, root, (), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = source if mark is None else f"{source}:{mark.line + 1}"
        raise CapabilityError(f"{place}: this is not valid YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise CapabilityError(f"{source}: this is not valid YAML: {' '.join(str(error).split())}.") from error
    except RecursionError:
        raise CapabilityError(f"{source}: too many levels of lists and mappings. A capability has seven.") from None
    if data is None:
        raise CapabilityError(f"{source}: the file is empty.")
    return Document(data, source, lines)


def _count(node: yaml.Node, parents: tuple[yaml.Node, ...], known: dict[yaml.Node, int]) -> int:
    """The number of values in a node, where an alias counts as all values of its anchor."""
    if node in parents:
        raise _error(node, "an anchor contains itself.")
    if node not in known:
        inner = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        nodes = inner if isinstance(node, yaml.CollectionNode) else ()
        known[node] = 1 + sum([_count(each, (*parents, node), known) for each in nodes])
        if known[node] > MOST_VALUES:
            raise _error(node, f"too many values, those behind an alias counted each time. Allowed: {MOST_VALUES}.")
    return known[node]


def _located(loader: yaml.SafeLoader, node: yaml.Node, steps: Steps, lines: dict[Steps, int]) -> Any:
    """The value of a node; the lines of all it contains go into `lines`."""
    lines[steps] = _line(node)
    if isinstance(node, yaml.SequenceNode):
        return [_located(loader, item, (*steps, index), lines) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node)
    result: dict[Any, Any] = {}
    texts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    # First what `<<` brings in, so that the mapping's own keys win.
    for key, value in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
        if key.tag == _MERGE:
            for part in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                if not isinstance(part, yaml.MappingNode):
                    raise _error(key, "'<<' takes another mapping.")
                result |= _located(loader, part, steps, lines)
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise _error(key, "a key must be text.")
        if texts[key.value] > 1:
            raise _error(key, f"key {shown(key.value)} stands twice in the same mapping.")
        name = _scalar(loader, key)
        inner = (*steps, name if isinstance(name, str) else shown(name))
        result[name] = _located(loader, value, inner, lines)
        # The line of the key: the value may be an alias and stand elsewhere.
        lines[inner] = _line(key)
    return result


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, LookupError, AttributeError, OverflowError) as error:
        # From int(), a dict or a match inside PyYAML, for a text that does not fit its tag, as in `!!bool maybe`.
        kind = node.tag.rpartition(":")[2]
        raise _error(node, f"this is not valid YAML: {shown(node.value)} is not of type {kind!r}.") from error


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _error(node: yaml.Node, problem: str) -> CapabilityError:
    return CapabilityError(f"{node.start_mark.name}:{_line(node)}: {problem}")
