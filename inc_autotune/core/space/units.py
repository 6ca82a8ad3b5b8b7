"""Units of operators that are decided together, the space of their options, and assignments: complete decisions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from inc_autotune.core.errors import ModelError
from inc_autotune.core.op_config import FP32, SMOOTHQUANT, OpConfig, SmoothingForm

OperatorKey = tuple[str, str]
"""(operator name, operator type), as in `tune_cfg` and in the capability."""


@dataclass(frozen=True)
class Unit:
    """Operators that are decided together, such as the linears that read one tensor.

    Args:
        name: the first operator's name.
        operators: (name, type) of each member.
        options: what the unit may become; the first is the default, the last keeps it in fp32.
    """

    name: str
    operators: tuple[OperatorKey, ...]
    options: tuple[OpConfig, ...]

    @property
    def operator_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.operators)


@dataclass(frozen=True)
class Assignment:
    """A complete decision: one `OpConfig` for each unit, and the calibration it is built on.

    Args:
        configs: (unit name, config) in the order of the space.
        sampling_size: number of calibration samples whose statistics are used.
        variant: name of the way the whole model is written, see `SupportsVariants`; None: as usual.
        trained: by what the model is trained before it is evaluated, a digest; None: it is not.
    """

    configs: tuple[tuple[str, OpConfig], ...]
    sampling_size: int
    variant: str | None = None
    trained: str | None = None

    @cached_property
    def by_unit(self) -> dict[str, OpConfig]:
        return dict(self.configs)

    @property
    def fallback_units(self) -> tuple[str, ...]:
        """Units kept in a float dtype."""
        return tuple(unit for unit, config in self.configs if not config.is_quantized)

    @property
    def relaxations(self) -> tuple[int, int]:
        """Units relaxed for accuracy, to compare assignments: how many are in a float dtype, how many are dynamic."""
        dynamic = sum(config.approach == "dynamic" for _, config in self.configs)
        return len(self.fallback_units), dynamic

    @cached_property
    def digest(self) -> str:
        """A content hash: equal decisions have equal digests, in every process."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def replace(self, changes: Mapping[str, OpConfig]) -> Assignment:
        """The same decision with some units changed."""
        configs = tuple((unit, changes.get(unit, config)) for unit, config in self.configs)
        return replace(self, configs=configs)

    def to_dict(self) -> dict[str, Any]:
        """As plain values; a config that several units share stands in it once."""
        plain = [config.with_alpha(None) for _, config in self.configs]
        options = list(dict.fromkeys(plain))
        return {
            "sampling_size": self.sampling_size,
            "options": [option.to_dict() for option in options],
            "units": {
                unit: [options.index(option), config.alpha]
                for (unit, config), option in zip(self.configs, plain, strict=True)
            },
            **({} if self.variant is None else {"variant": self.variant}),
            **({} if self.trained is None else {"trained": self.trained}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Assignment:
        """Inverse of `to_dict`."""
        options = [OpConfig.from_dict(option) for option in data["options"]]
        configs = tuple((unit, options[index].with_alpha(alpha)) for unit, (index, alpha) in data["units"].items())
        return cls(configs, int(data["sampling_size"]), data.get("variant"), data.get("trained"))


@dataclass(frozen=True)
class TuningSpace:
    """All units that have a choice."""

    units: tuple[Unit, ...]

    @cached_property
    def by_name(self) -> dict[str, Unit]:
        return {unit.name: unit for unit in self.units}

    def default(
        self,
        sampling_size: int,
        alphas: Mapping[str, float | None] | None = None,
        rounded: Collection[str] = (),
        forms: Mapping[str, SmoothingForm] = MappingProxyType({}),
    ) -> Assignment:
        """Every unit at its first option.

        Args:
            sampling_size: number of calibration samples.
            alphas: of SmoothQuant, by unit name; units that are not named are not smoothed.
            rounded: names of units whose weights are rounded by the second moment of their input.
            forms: of smoothing, by unit name; units that are not named have SmoothQuant's.
        """
        alphas = alphas or {}

        def config(unit: Unit) -> OpConfig:
            smoothed = unit.options[0].with_alpha(alphas.get(unit.name)).with_form(forms.get(unit.name, SMOOTHQUANT))
            return smoothed.with_rounding("second_moment") if unit.name in rounded else smoothed

        return Assignment(tuple((unit.name, config(unit)) for unit in self.units), sampling_size)

    def only(self, assignment: Assignment, names: Iterable[str]) -> Assignment:
        """`assignment` with every unit not in `names` kept in fp32."""
        kept = set(names)
        return assignment.replace({unit.name: FP32 for unit in self.units if unit.name not in kept})

    def without(self, assignment: Assignment, names: Iterable[str]) -> Assignment:
        """`assignment` with the units in `names` kept in fp32."""
        return assignment.replace(dict.fromkeys(names, FP32))

    def tune_cfg(self, assignment: Assignment) -> dict[str, Any]:
        """The adaptor's form of an assignment: operator-wise configurations and recipes; fp32 for a unit it has not.

        Returns:
            `{'op': {(name, type): config}, 'calib_iteration': samples, 'recipe_cfgs': {'smooth_quant': bool,
            'smooth_quant_args': {'alpha': {operator name: alpha}}}}`; with `'variant'` where the assignment has one.
        """
        operators = {
            operator: assignment.by_unit.get(unit.name, FP32).to_dict()
            for unit in self.units
            for operator in unit.operators
        }
        alphas = {name: config["alpha"] for (name, _), config in operators.items() if "alpha" in config}
        return {
            "op": operators,
            "calib_iteration": assignment.sampling_size,
            "recipe_cfgs": {"smooth_quant": bool(alphas), "smooth_quant_args": {"alpha": alphas}},
            **({} if assignment.variant is None else {"variant": assignment.variant}),
        }


def build_space(
    options: Mapping[OperatorKey, Sequence[OpConfig]],
    groups: Iterable[Sequence[str]] = (),
    skipped: Mapping[str, str] = MappingProxyType({}),
) -> TuningSpace:
    """Join operators into units.

    Args:
        options: what each operator may become, default first, fp32 last.
        groups: names of operators that should be decided together. Members whose options differ (a rule for one
            name, say) form units of their own, since they cannot be decided as one.
        skipped: why other operators cannot be quantized, by name; for the message.

    Raises:
        ModelError: no operator has anything but fp32.
    """
    grouped: dict[str, str] = {name: members[0] for members in groups for name in members}
    members_of: dict[tuple[str, tuple[OpConfig, ...]], list[OperatorKey]] = {}
    for (name, op_type), configs in options.items():
        if any(config != FP32 for config in configs):
            members_of.setdefault((grouped.get(name, name), tuple(configs)), []).append((name, op_type))
    if not options:
        raise ModelError(
            "model: nothing to quantize: it has no operator of a type in the capability, or none with float32 weights "
            f"that runs. {_reasons(skipped)}Check the model, or extend capability."
        )
    if not members_of:
        raise ModelError(
            f"model: nothing to quantize: none of its {len(options)} operators of a known type may become an integer "
            f"type. Types found: {', '.join(sorted({op_type for _, op_type in options})) or 'none'}. "
            f"{_reasons(skipped)}Check op_type_dict, op_name_dict, approach and excluded_precisions, or extend "
            "capability."
        )
    return TuningSpace(
        tuple(Unit(members[0][0], tuple(members), configs) for (_, configs), members in members_of.items())
    )


def _reasons(skipped: Mapping[str, str]) -> str:
    """The reasons as a sentence; a reason stands behind its first operator and the number of its other operators."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    listed = [
        f"{members[0]}{f' and {len(members) - 1} more' if len(members) > 1 else ''}: {reason}"
        for reason, members in names.items()
    ]
    return f"Left out: {'; '.join(listed)}. " if listed else ""
