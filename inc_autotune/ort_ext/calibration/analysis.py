"""What the graph of a model says, before any number is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial

from inc_autotune.graphs import MomentRows, Rows, WatchedTensor, shared_weights
from inc_autotune.ort_ext.calibration.grid_tensors import GridTensor, find_grid
from inc_autotune.ort_ext.calibration.hidden_states import HiddenStates, with_hidden_states
from inc_autotune.ort_ext.calibration.moments import operator_moments, rows_by_operator
from inc_autotune.ort_ext.calibration.ranges import channel_axis, input_groups, weight_of
from inc_autotune.ort_ext.model import BODY_REASON, SourceModel
from inc_autotune.ort_ext.operators import APPROACHES, LAYOUTS, Operator, Operators, find_operators, kept_in_fp32
from inc_autotune.ort_ext.operators.rewriting import rewritten
from inc_autotune.ort_ext.target import GraphForm, GraphRecipes


class Analysis:
    """What the graph says about one model, in the form candidates are written in."""

    def __init__(self, source: SourceModel, form: GraphForm, recipes: GraphRecipes) -> None:
        self.source = source
        self.recipes = recipes
        self.form = form
        self.graph = rewritten(source, form)

    @cached_property
    def discovered(self) -> Operators:
        """Those that can be quantized and those that cannot, with the ones inside bodies."""
        layouts = LAYOUTS if self.form.cpu_fusions else LAYOUTS[:1]
        operators = find_operators(self.graph, joins_bias=self.form.joins_bias, layouts=layouts)
        bodies = {name: (op_type, BODY_REASON) for name, op_type in self.source.body_operators.items()}
        return Operators(operators.found, {**operators.skipped, **bodies})

    @property
    def operators(self) -> Mapping[str, Operator]:
        """Those that can be quantized, by name."""
        return self.discovered.found

    @property
    def skipped(self) -> Mapping[str, tuple[str, str]]:
        """(type, reason) by name of those that cannot."""
        return self.discovered.skipped

    @property
    def groups(self) -> list[list[str]]:
        """Names of operators that are decided together."""
        return input_groups(self.discovered)

    @cached_property
    def kept_in_fp32(self) -> Mapping[str, str]:
        """Reasons by name of the operators that recipes keep in fp32."""
        return kept_in_fp32(self.graph, self.operators, self.recipes)

    @cached_property
    def _static(self) -> Sequence[Operator]:
        """The operators that may be static."""
        return [each for each in self.operators.values() if "static" in APPROACHES[each.type]]

    @cached_property
    def has_activations(self) -> bool:
        """Whether there are activations that could be on a grid too."""
        return len(find_grid(self.graph, self._static, self.form, activations=False)) < len(self.grid)

    @cached_property
    def grid(self) -> Mapping[str, GridTensor]:
        """The tensors on a grid where all operators are static."""
        return find_grid(self.graph, self._static, self.form)

    @cached_property
    def shared_weights(self) -> frozenset[str]:
        """Names of the operators whose weight others with another input read too."""
        return shared_weights(self.operators.values(), partial(weight_of, self.graph))

    @cached_property
    def hidden_states(self) -> HiddenStates:
        """The model that also computes what its recurrences multiply."""
        return with_hidden_states(self.graph, self.operators)

    @cached_property
    def moment_names(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Names of second moments by operator, of those whose weights can be rounded by them."""
        return operator_moments(self.graph, self.operators, self.hidden_states.factors)

    def watched(self, *, histogram: bool, moments: bool) -> list[WatchedTensor]:
        """The inputs of all operators, and what may be put on a grid behind them.

        Args:
            histogram: whether values are counted.
            moments: whether second moments are wanted, for which hidden states are watched too.
        """
        watched: dict[str, WatchedTensor] = {}
        rows: dict[str, dict[MomentRows, None]] = {}
        for name, each_rows in rows_by_operator(self.graph, self.operators).items():
            rows.setdefault(self.operators[name].input, {})[each_rows] = None
        factors = self.hidden_states.factors if moments else {}
        states = [tensor for tensors in factors.values() for tensor in tensors]
        for tensor in states:
            rows.setdefault(tensor, {})[Rows()] = None
        # A tensor that a linear operator reads has its channels last, whoever else reads it.
        for each in sorted(self.operators.values(), key=lambda each: not each.is_linear):
            if each.type != "Gather" and each.input not in watched:
                channels = channel_axis(each)
                watched[each.input] = WatchedTensor(
                    *(each.input, channels is not None, histogram, channels, tuple(rows.get(each.input, ())))
                )
        for tensor, place in self.grid.items():
            if place.same_as is None and tensor not in watched:
                watched[tensor] = WatchedTensor(tensor, False, histogram, channel_axis=None)
        for tensor in states:
            watched.setdefault(tensor, WatchedTensor(tensor, False, False, moments=tuple(rows[tensor])))
        return list(watched.values())
