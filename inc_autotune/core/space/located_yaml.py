"""YAML that remembers where each value stands, so that an error can name file and line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from inc_autotune.core.errors import CapabilityError

Steps = tuple[str | int, ...]
"""The way from the root to a value: keys of mappings, indices of lists."""


@dataclass(frozen=True)
class Document:
    """Plain data and where it comes from.

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
        CapabilityError: the file cannot be read, is empty, is not YAML, or a mapping in it has a key twice.
    """
    source = source or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CapabilityError(
            f"{source}: the file cannot be read: {reason}. Give capability= the path of a YAML file, or a dict."
        ) from error
    lines: dict[Steps, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        data = None if root is None else _construct(loader, root, (), lines, source, ())
    except CapabilityError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = source if mark is None else f"{source}:{mark.line + 1}"
        raise CapabilityError(f"{place}: this is not valid YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise CapabilityError(f"{source}: this is not valid YAML: {' '.join(str(error).split())}.") from error
    if data is None:
        raise CapabilityError(f"{source}: the file is empty.")
    return Document(data, source, lines)


def _construct(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    steps: Steps,
    lines: dict[Steps, int],
    source: str,
    parents: tuple[yaml.Node, ...],
) -> Any:
    if node in parents:
        raise CapabilityError(f"{source}:{node.start_mark.line + 1}: an anchor contains itself.")
    parents = (*parents, node)
    lines[steps] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, item, (*steps, index), lines, source, parents) for index, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    result: dict[Any, Any] = {}
    own = _own_pairs(node)
    texts = [key.value for key, _ in own]
    for key_node, value_node in _merged_pairs(node, parents, source) + own:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise CapabilityError(f"{source}:{line}: a key must be text.")
        if texts.count(key_node.value) > 1:
            raise CapabilityError(f"{source}:{line}: key {key_node.value!r} stands twice in the same mapping.")
        key = loader.construct_object(key_node)
        inner = (*steps, str(key))
        result[key] = _construct(loader, value_node, inner, lines, source, parents)
        # The line of the key: the value may be an alias and stand elsewhere.
        lines[inner] = line
    return result


def _is_merge(key: yaml.Node) -> bool:
    return key.tag == "tag:yaml.org,2002:merge"


def _own_pairs(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    return [(key, value) for key, value in node.value if not _is_merge(key)]


def _merged_pairs(
    node: yaml.MappingNode, parents: tuple[yaml.Node, ...], source: str
) -> list[tuple[yaml.Node, yaml.Node]]:
    """The pairs that `<<` brings in, the ones that win last."""
    pairs: list[tuple[yaml.Node, yaml.Node]] = []
    for key, value in node.value:
        if not _is_merge(key):
            continue
        for part in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
            if not isinstance(part, yaml.MappingNode) or part in parents:
                raise CapabilityError(f"{source}:{key.start_mark.line + 1}: '<<' takes another mapping.")
            pairs += _merged_pairs(part, (*parents, part), source) + _own_pairs(part)
    return pairs
