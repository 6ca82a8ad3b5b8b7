"""What several batches together tell about a model's operators: what holds in one need not hold in the next."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from inc_autotune.torch_ext.operators.operator_calls import NOT_RUN
from inc_autotune.torch_ext.operators.trace import ModelTrace

ANOTHER_WAY = (
    "later calibration batches use it in another way than the first, and are too large to be kept for a second pass"
)


def merged(one: ModelTrace, other: ModelTrace) -> ModelTrace:
    """What holds in the batches of both traces.

    An operator that ran in one of them is known, and skipped if its calls in one of them forbid to replace it.
    Operators stay in one group if they read the same tensors in both, or did not run. A BatchNorm is folded, an output
    starts at zero or has the range of the group that reads it, if that is so wherever the operator ran.
    """
    reasons = {**other.skipped, **one.skipped}
    found = {name: _reason(name, one, other) for name in reasons}
    skipped = {name: reason for name, reason in found.items() if reason is not None}
    names = [name for name in {**one.operators, **other.operators} if name not in skipped]
    operators = {}
    for name in names:
        known = [trace.operators[name] for trace in (one, other) if name in trace.operators]
        operators[name] = replace(known[0], calls=max(each.calls for each in known))
    groups = _groups(names, one, other)
    batch_norms = {
        convolution: norm
        for convolution, norm in {**one.batch_norms, **other.batch_norms}.items()
        if convolution in operators and all(_folds(convolution, norm, trace) for trace in (one, other))
    }
    unfolded = ({*one.batch_norms, *other.batch_norms} - {*batch_norms}) | {*skipped}
    relu_outputs = {
        name
        for name in one.relu_outputs | other.relu_outputs
        if all(name in trace.relu_outputs or name not in trace.operators for trace in (one, other))
    }
    return ModelTrace(
        operators=operators,
        groups=groups,
        batch_norms=batch_norms,
        relu_outputs=frozenset(relu_outputs - unfolded),
        output_groups=_output_groups(groups, unfolded, one, other),
        consumers={group[0]: _consumers(group, one, other) for group in groups},
        skipped=skipped,
        ran=one.ran | other.ran,
        chains=_chains(operators, unfolded, one, other),
        shared_sums=(one.shared_sums | other.shared_sums) & {*operators},
    )


def extended(trace: ModelTrace, later: ModelTrace) -> ModelTrace:
    """The first trace, and what the later one tells of operators that did not run in the first one."""
    reasons = {name: reason for name, reason in trace.skipped.items() if reason != NOT_RUN}
    new = {name: each for name, each in later.operators.items() if name not in trace.operators and name not in reasons}
    operators, groups = {**trace.operators, **new}, [[name for name in group if name in new] for group in later.groups]
    leaders = {group[0] for group in groups if group}
    skipped = {**trace.skipped, **later.skipped, **reasons}
    return replace(
        trace,
        operators=operators,
        groups=(*trace.groups, *(tuple(group) for group in groups if group)),
        batch_norms={**trace.batch_norms, **{name: each for name, each in later.batch_norms.items() if name in new}},
        relu_outputs=trace.relu_outputs | {name for name in later.relu_outputs if name in new},
        output_groups={
            **trace.output_groups,
            **{name: each for name, each in later.output_groups.items() if name in new and each in leaders},
        },
        consumers={**trace.consumers, **{name: each for name, each in later.consumers.items() if name in leaders}},
        skipped={name: reason for name, reason in skipped.items() if name not in operators},
        ran=trace.ran | later.ran,
        last=trace.last | (later.last & new.keys()),
    )


def is_served(trace: ModelTrace, by: ModelTrace) -> bool:
    """Whether statistics that were collected by one trace are all that another one needs."""
    return (
        {*trace.operators} == {*by.operators}
        and {*trace.groups} == {*by.groups}
        and trace.batch_norms == by.batch_norms
        and {name for name, each in trace.operators.items() if each.calls > 1}
        == {name for name, each in by.operators.items() if each.calls > 1}
    )


def in_order_of(trace: ModelTrace, first: ModelTrace) -> ModelTrace:
    """The same trace with the operators that ran in the first batch in their order, before the others."""
    names = [name for name in {**first.operators, **trace.operators} if name in trace.operators]
    position = {name: index for index, name in enumerate(names)}
    leaders: dict[str, tuple[str, ...]] = {}
    for group in trace.groups:
        members = tuple(sorted(group, key=position.__getitem__))
        leaders[members[0]] = members
    renamed = {group[0]: min(group, key=position.__getitem__) for group in trace.groups}
    return replace(
        trace,
        operators={name: trace.operators[name] for name in names},
        groups=tuple(leaders[name] for name in sorted(leaders, key=position.__getitem__)),
        output_groups={name: renamed[leader] for name, leader in trace.output_groups.items()},
        consumers={renamed[leader]: each for leader, each in trace.consumers.items()},
    )


def without(trace: ModelTrace, names: Collection[str], reason: str) -> ModelTrace:
    """The same trace with some operators skipped."""
    left = {name: each for name, each in trace.operators.items() if name not in names}
    groups = [tuple(name for name in group if name not in names) for group in trace.groups]
    kept = tuple(group for group in groups if group)
    leaders = {group[0] for group in kept}
    whole = {*kept} & {*trace.groups}
    return replace(
        trace,
        operators=left,
        groups=kept,
        batch_norms={name: norm for name, norm in trace.batch_norms.items() if name in left},
        relu_outputs=trace.relu_outputs & {*left},
        chains=_left_chains(trace, left),
        shared_sums=trace.shared_sums & {*left},
        output_groups={
            name: leader
            for name, leader in trace.output_groups.items()
            if name in left and any(group[0] == leader for group in whole)
        },
        consumers={leader: each for leader, each in trace.consumers.items() if leader in leaders},
        skipped={**trace.skipped, **dict.fromkeys(names, reason)},
    )


def unserved(trace: ModelTrace, by: ModelTrace) -> set[str]:
    """Operators of which the statistics that were collected by another trace do not serve."""
    groups = {name: group for group in by.groups for name in group}
    changed = {name for group in trace.groups for name in group if groups.get(name) != group}
    changed |= {name for name in trace.operators if trace.batch_norms.get(name) != by.batch_norms.get(name)}
    several = {name for name, each in trace.operators.items() if each.calls > 1 and by.operators.get(name) != each}
    changed |= several | ({*trace.operators} - {*by.operators})
    return {name for group in trace.groups if changed.intersection(group) for name in group}


def given_up(first: ModelTrace, every: ModelTrace) -> list[str]:
    """Notes on what the first batch seemed to allow and another one forbids, and on what only a later one showed.

    Args:
        first: what the first batch told.
        every: what all batches told.
    """
    groups = {name: group for group in every.groups for name in group}
    split = [
        name
        for group in first.groups
        for name in group
        if name in groups and not {*group} - {*every.skipped} <= {*groups[name]}
    ]
    both = first.operators.keys() & every.operators.keys()
    kinds = {
        "read different tensors in some of the batches, and share no range": split,
        "ran in later batches only": [name for name in every.operators if name not in first.operators],
        "cannot be quantized, because of calls in later batches": [
            name for name in first.operators if name in every.skipped
        ],
        "not joined with the BatchNorm behind it, whose input is read elsewhere in some of the batches": [
            name for name in first.batch_norms if name in both and name not in every.batch_norms
        ],
        "output not read by ReLUs alone in some of the batches, so its range has no fixed start at zero": [
            name for name in first.relu_outputs if name in both and name not in every.relu_outputs
        ],
    }
    return [
        f"calibration batches differ in how they use the model: {_listed(names)}: {what}"
        for what, names in kinds.items()
        if names
    ]


def _listed(names: list[str], most: int = 4) -> str:
    text = ", ".join(map(repr, names[:most]))
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def _reason(name: str, one: ModelTrace, other: ModelTrace) -> str | None:
    """Why an operator cannot be quantized; None if it ran in one of the traces and nothing speaks against it."""
    reasons = [trace.skipped[name] for trace in (one, other) if name in trace.skipped]
    problems = [reason for reason in reasons if reason != NOT_RUN]
    if problems:
        return problems[0]
    return NOT_RUN if len(reasons) == 2 else None


def _groups(names: Iterable[str], one: ModelTrace, other: ModelTrace) -> tuple[tuple[str, ...], ...]:
    places = [{name: index for index, group in enumerate(trace.groups) for name in group} for trace in (one, other)]
    members: dict[tuple[int | None, ...], list[str]] = {}
    for name in names:
        members.setdefault(tuple(place.get(name) for place in places), []).append(name)
    return tuple(map(tuple, members.values()))


def _folds(convolution: str, norm: str, trace: ModelTrace) -> bool:
    """Whether a BatchNorm can be folded, or neither it nor the convolution ran."""
    return trace.batch_norms.get(convolution) == norm or not trace.ran & {convolution, norm}


def _output_groups(
    groups: Iterable[tuple[str, ...]], unfolded: Collection[str], one: ModelTrace, other: ModelTrace
) -> dict[str, str]:
    leaders = {frozenset(group): group[0] for group in groups}
    found = {}
    for name in {**one.output_groups, **other.output_groups}:
        readers = {_output_group(name, trace) for trace in (one, other) if name in trace.operators}
        leader = leaders.get(readers.pop()) if len(readers) == 1 else None
        if leader is not None and name not in unfolded:
            found[name] = leader
    return found


def _output_group(convolution: str, trace: ModelTrace) -> frozenset[str]:
    """The group that alone reads the output of a convolution; empty if there is none."""
    leader = trace.output_groups.get(convolution)
    return next((frozenset(group) for group in trace.groups if group[0] == leader), frozenset())


def _chains(
    names: Collection[str], unfolded: Collection[str], one: ModelTrace, other: ModelTrace
) -> dict[str, frozenset[str]]:
    """Convolutions that may hand on integers wherever they ran."""
    found = {}
    for name in names:
        reached = [trace.chains.get(name) for trace in (one, other) if name in trace.operators]
        readers = frozenset().union(*(each or () for each in reached)).intersection(names)
        if all(reached) and readers and name not in unfolded:
            found[name] = readers
    return found


def _left_chains(trace: ModelTrace, left: Collection[str]) -> dict[str, frozenset[str]]:
    chains = {name: readers.intersection(left) for name, readers in trace.chains.items() if name in left}
    return {name: readers for name, readers in chains.items() if readers}


def _consumers(group: tuple[str, ...], one: ModelTrace, other: ModelTrace) -> tuple[str, ...]:
    """What else reads the input of a group in one of the traces."""
    readers: list[str] = []
    for trace in (one, other):
        before = next((each for each in trace.groups if group[0] in each), ())
        readers += [name for name in before if name not in group]
        readers += trace.consumers.get(before[0], ()) if before else ()
    return tuple(dict.fromkeys(readers))
