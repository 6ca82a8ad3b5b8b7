"""What a framework can do with an operator, read from its YAML."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inc_autotune.core.errors import CapabilityError
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.core.space.located_yaml import Document, load_yaml
from inc_autotune.core.space.schema import Block, parse_capability, version_numbers
from inc_autotune.core.vocabulary import APPROACHES, listing


@dataclass(frozen=True)
class Capability:
    """The options of every operator type.

    Args:
        table: operator type -> options, the first is the default, the last is fp32.
    """

    table: Mapping[str, tuple[OpConfig, ...]]

    def options(self, op_type: str) -> tuple[OpConfig, ...]:
        """The options of an operator type, default first, fp32 last; empty for a type that is not in the table."""
        return self.table.get(op_type, ())

    def optypewise(self) -> dict[str, dict[str, Any]]:
        """Operator type -> its default option, the form of `query_fw_capability()["optypewise"]`."""
        return {op_type: options[0].to_dict() for op_type, options in self.table.items()}

    @property
    def default_needs_histogram(self) -> bool:
        """Whether the default of some operator type calibrates with more than minimum and maximum."""
        return any(options[0].activation.algorithm not in ("minmax", None) for options in self.table.values())


def load_capability(
    default: Path,
    framework_version: str,
    override: str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any] | None = None,
) -> Capability:
    """Read the capability of a framework, with the user's additions.

    A capability is a list of version blocks, or one bare mapping for all versions. Of several blocks the one with the
    highest version up to the installed version is used; if there is none, the block named "default".

    Args:
        default: the framework's own YAML file.
        framework_version: the installed version, such as "2.13.0+cpu"; only its numbers count.
        override: path of a YAML file, or its content as dict or list. A bare mapping of dtypes extends the default:
            an entry replaces the entry of the same dtype, approach and operator type, all others stay. A
            list of version blocks, or a mapping with `version`, replaces the default.

    Raises:
        CapabilityError: a file cannot be read, is malformed (with file and line), or no block fits the version.
    """
    own = load_yaml(Path(default))
    if override is None:
        return _capability(_choose(own, framework_version))
    if isinstance(override, str | os.PathLike):
        document = load_yaml(Path(override), os.fspath(override))
    else:
        document = Document(override, "capability argument")
    chosen = _choose(document, framework_version)
    return _capability(_choose(own, framework_version), chosen) if chosen.extends else _capability(chosen)


def _choose(document: Document, framework_version: str) -> Block:
    installed = version_numbers(framework_version)
    named = [(name, block) for block in parse_capability(document) for name in block.version.name]
    fitting = [
        (version_numbers(name), block)
        for name, block in named
        if name != "default" and version_numbers(name) <= installed
    ]
    if fitting:
        return max(fitting, key=lambda item: item[0])[1]
    for name, block in named:
        if name == "default":
            return block
    raise CapabilityError(
        f"{document.source}: no version block fits framework version {framework_version}. "
        f"It has {listing([name for name, _ in named])}; add a block for this version or one named 'default'."
    )


def refuse_granularities(capability: Capability, able: Collection[str] = (), by_token: Collection[str] = ()) -> None:
    """Refuse groups of weights, and ranges of tokens, where nothing computes with them.

    Args:
        able: operator types with weight-only forms that have groups.
        by_token: operator types with dynamic forms that have a range for each token.

    Raises:
        CapabilityError: another type, or another approach, has such a granularity.
    """
    for op_type, options in capability.table.items():
        for option in options:
            if option.activation.is_per_token and op_type not in by_token:
                raise CapabilityError(
                    f"capability: {option.approach} {op_type}: activation granularity 'per_token' has no form here. "
                    f"Allowed: 'per_tensor'{f', and for {listing(by_token)} both' if by_token else ''}."
                )
            if option.weight.group_size and (op_type not in able or option.approach != "weight_only"):
                raise CapabilityError(
                    f"capability: {option.approach} {op_type}: granularity {option.weight.granularity!r} has no form "
                    f"here. Allowed: 'per_tensor' and 'per_channel'"
                    f"{f', or weight_only of {listing(able)}' if able else ''}."
                )


def _capability(*blocks: Block) -> Capability:
    """Options by width, so that a new narrow dtype does not become the default; then by approach; floats last.

    Args:
        blocks: one block, or two: an entry of the second replaces the same entry of the first.
    """
    quantized = {key: options for block in blocks for key, options in block.quantized().items()}
    order = sorted(quantized, key=lambda key: (-integer_type(key[0]).bits, APPROACHES.index(key[1])))
    table: dict[str, list[OpConfig]] = {}
    for key in order:
        table.setdefault(key[2], []).extend(quantized[key])
    for dtype in ("bf16", "fp16"):
        op_types = [op_type for block in blocks for op_type in getattr(block, dtype)]
        option = OpConfig(TensorConfig(dtype), TensorConfig(dtype))
        for op_type in list(table) if "*" in op_types else op_types:
            table.setdefault(op_type, []).append(option)
    return Capability({op_type: tuple(dict.fromkeys([*found, FP32])) for op_type, found in table.items()})
