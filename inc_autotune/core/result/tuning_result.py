"""What a tuning run found, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inc_autotune.core.analysis import BY_SECOND_MOMENTS, LEAST_SPEEDUP, SMALLEST_SHARE, UnitHarm, percent
from inc_autotune.core.result.operator_outcome import OperatorOutcome, optional_columns
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.core.search.study import Trial
from inc_autotune.core.text_table import numbered, text_table
from inc_autotune.core.vocabulary import Objective

LARGEST_NAMED = 3
"""How many operators in fp32 the summary names."""


@dataclass
class TuningResult:
    """The outcome of `autotune`.

    Args:
        met: whether the score meets the goal; None if nothing was evaluated.
        baseline: the fp32 model's score.
        score: the tuned model's score.
        goal: the goal in words.
        evidence: the verdict in words, with the confidence interval of the loss where the evaluation gave per-sample
            scores.
        trials: every evaluated candidate.
        evaluations: calls of the user's evaluation in this run, the baseline included.
        operators: every operator of a quantizable type.
        speedup: measured fp32 seconds over tuned seconds of what `timed` says.
        size_ratio: bytes of the fp32 model's weights over the tuned model's.
        smoothing: (plan, relative squared output error on held-out samples, where measured), best first.
        corrections: likewise of the corrections; the first is the one used, `off` is none.
        sampling_size: calibration samples used.
        phases: wall seconds of each phase.
        notes: remarks on machine and model.
        recipe: builds the same model again from the fp32 one.
        model: the tuned model, only in the `partial_result` of an `EvaluationError`.
        target: the goal as a score.
        chosen: number of the trial whose model was returned.
        harms: the last ranking of units by harm, the most harmful first; empty if the search needed no ranking.
        objective: what was to be gained: `performance`, `modelsize` or `footprint`.
        gain: measured fp32 cost over tuned cost in the objective; None if the framework does not measure it.
            `gained` says whether that is more than noise, and the headline where it is not.
        timed: what was timed, such as "eager forward pass".
        trained: whether the model is one that `train_func` trained.
        training_seconds: wall time of all calls of `train_func`, those of runs before a crash included.
        weights_file: where the model's trained weights lie beside the storage; None: nowhere.
        ended: whether the run had ended; if not, this is what its storage holds so far, without a model.
    """

    met: bool | None
    baseline: float | None
    score: float | None
    goal: str | None
    trials: tuple[Trial, ...]
    evaluations: int
    operators: tuple[OperatorOutcome, ...]
    speedup: float | None
    size_ratio: float | None
    smoothing: tuple[tuple[str, float | None], ...]
    sampling_size: int
    phases: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    recipe: Recipe | None = None
    model: Any = field(default=None, repr=False)
    evidence: str | None = None
    target: float | None = None
    chosen: int | None = None
    harms: tuple[UnitHarm, ...] = ()
    objective: Objective = "performance"
    gain: float | None = None
    timed: str = "forward pass"
    corrections: tuple[tuple[str, float | None], ...] = ()
    trained: bool = False
    training_seconds: float = 0.0
    weights_file: str | None = None
    ended: bool = True

    @property
    def alphas(self) -> dict[str, float]:
        """SmoothQuant alpha by operator name, of the smoothed operators."""
        return {each.name: each.alpha for each in self.operators if each.alpha is not None}

    @property
    def fallbacks(self) -> dict[str, str]:
        """Reason by operator name, of the operators that stay in a float dtype."""
        return {each.name: each.reason for each in self.operators if each.approach is None}

    @property
    def weight_shares(self) -> dict[str, float]:
        """Share of the model's weights by data type, the largest first, fp32 included; empty where it is not known.

        A simulated data type is named so: `int4 simulated`.
        """
        shares: dict[str, float] = {}
        for each in self.operators:
            if each.weight_share is not None:
                shares[each.form] = shares.get(each.form, 0.0) + each.weight_share
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def describe_weights(self) -> str:
        """How much of the weights has left fp32, and which operators hold most of the rest."""
        shares = {form: share for form, share in self.weight_shares.items() if form != "fp32"} or {"int8": 0.0}
        text = ", ".join(f"{form}: {percent(share)} of the weights" for form, share in shares.items())
        in_fp32 = [
            each for each in self.operators if each.form == "fp32" and (each.weight_share or 0) >= SMALLEST_SHARE
        ]
        largest = sorted(in_fp32, key=lambda each: -(each.weight_share or 0))[:LARGEST_NAMED]
        named = [f"{each.name} ({each.type}) {percent(each.weight_share or 0)}" for each in largest]
        more = ", ..." if len(in_fp32) > len(named) else ""
        return f"{text}; largest in fp32: {', '.join(named)}{more}" if named else text

    @property
    def gained(self) -> bool | None:
        """Whether the model is better than fp32 in the objective, beyond noise; None where that was not measured."""
        if self.gain is None:
            return None
        return self.gain >= LEAST_SPEEDUP if self.objective == "performance" else self.gain > 1

    def describe_gain(self) -> str:
        """What was gained, and how many operators have left fp32: `nothing gained: 1 of 47 operators int8, 0.97x`."""
        counts = Counter(each.form for each in self.operators if each.form != "fp32") or {"int8": 0}
        (first, count), *others = counts.items()
        more = "".join(f", {number} {form}" for form, number in others)
        words = "gained" if self.gained else "nothing gained"
        ratio = "" if self.gain is None else f", {self.gain:.2f}x"
        return f"{words}: {count} of {len(self.operators)} operators {first}{more}{ratio}"

    def what_to_try(self) -> tuple[str, ...]:
        """What may help where the goal was missed, in the order in which to try it; empty where it was not."""
        if self.met is not False or not self.ended:
            return ()
        found = []
        if self.evidence is not None and self.evidence.startswith("undecided"):
            found.append("evaluate on more samples: the loss is within what chance explains")
        elif self.evidence is None:
            found.append("return the scores of single samples from eval_func: one number may miss the goal by chance")
        failed = sum(trial.error is not None for trial in self.trials)
        if failed:
            found.append(f"look at the errors of {failed} trials, which were built or evaluated in vain")
        found.append(f"calibrate on more samples: sampling_sizes=[{self.sampling_size}, {5 * self.sampling_size}]")
        harmful = [harm.unit for harm in self.harms if harm.error is not None and harm.unit not in self.fallbacks]
        if harmful:
            rules = ", ".join(f"{name!r}: {{'weight': {{'dtype': ['fp32']}}}}" for name in harmful[:LARGEST_NAMED])
            found.append(f"leave out what does most harm and is still quantized: op_name_dict={{{rules}}}")
        if not self.training_seconds:
            found.append("train it with its integers, where the model is of PyTorch or Keras: train_func")
        found.append("search on: more max_trials, and tuning_time in seconds")
        found.append("see where it is lost: compare(fp32 model, tuned model, data), and its save_report")
        return tuple(found)

    def save_report(self, path: str | Path) -> None:
        """Write the result as one HTML page with charts that works offline.

        Args:
            path: the file to write, about 5 MB; an existing one is replaced.

        Raises:
            MissingDependencyError: plotly, the extra `report`, is not installed.
            OSError: the file cannot be written.
        """
        # Not at the top: the report's modules import this one.
        from inc_autotune.core.result.report import save_report

        save_report(self, path)

    def __str__(self) -> str:
        parts = [self._headline()]
        if self.ended:
            parts += [*self._summary(), "", *self._operator_table()]
        if self.trials:
            parts += ["", *self._trial_table()]
        parts += [f"note: {note}" for note in self.notes]
        advice = self.what_to_try()
        if advice:
            parts += ["", "what to try, in order:", *numbered(advice)]
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the recipe and the model, as plain values that JSON can hold; `from_dict` reads them."""
        from inc_autotune.core.result.document import to_document

        return to_document(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TuningResult:
        """Inverse of `to_dict`, without a recipe.

        Raises:
            ArgumentError: these are not the values of a result.
        """
        from inc_autotune.core.result.document import from_document

        return from_document(values)

    def describe_progress(self) -> str:
        """How far a run is that has not ended."""
        running = sum(trial.state == "running" for trial in self.trials)
        ended = f"{len(self.trials) - running} trials have ended, {running} run now"
        if self.baseline is None:
            return f"{ended}; the fp32 model has not been evaluated"
        if self.score is None:
            return f"{ended}; fp32 {self.baseline:.6g}, goal {self.goal or 'unknown'}"
        met = "meets" if self.met else "misses"
        return (
            f"{ended}; the best so far {met} the goal: score {self.score:.6g} against fp32 {self.baseline:.6g}, "
            f"goal {self.goal or 'unknown'}"
        )

    def _headline(self) -> str:
        if not self.ended:
            return f"Not ended: {self.describe_progress()}"
        nothing = "" if self.gained is not False else self.describe_gain()
        if self.met is None:
            return "Quantized without evaluation: no claim about accuracy" + (nothing and f"; {nothing}")
        verdict = "Goal met" if self.met else "GOAL NOT MET, this is the best model found"
        if self.evidence is not None and self.evidence.startswith("undecided"):
            verdict += ", within the noise of the evaluation"
        verdict += f", {'but' if self.met else 'and'} {nothing};" if nothing else ":"
        return f"{verdict} score {self.score:.6g} against fp32 {self.baseline:.6g}, goal {self.goal}"

    def _summary(self) -> list[str]:
        counts = Counter(each.form for each in self.operators)
        lines = [self.describe_weights()] if self.weight_shares else []
        if self.evidence is not None:
            lines.append(f"verdict: {self.evidence}")
        lines.append("operators: " + ", ".join(f"{count} {dtype}" for dtype, count in counts.most_common()))
        if self.speedup is not None:
            lines.append(f"measured speed-up: {self.speedup:.2f}x ({self.timed})")
        if self.size_ratio is not None:
            lines.append(f"weights: {_smaller(self.size_ratio)}")
        if self.objective == "footprint" and self.gain is not None:
            lines.append(f"peak memory of a forward pass, weights included: {_smaller(self.gain)}")
        if self.smoothing:
            compared = [(name, error) for name, error in self.smoothing if error is not None] or self.smoothing
            plans = [name + ("" if error is None else f" {error:.2e}") for name, error in compared]
            lines.append("smoothing, output error on held-out samples: " + ", ".join(plans))
        if self.corrections:
            lines.append(self.describe_corrections())
        rounding = self.describe_rounding()
        if rounding is not None:
            lines.append(rounding)
        if self.trained or self.training_seconds:
            lines.append(self.describe_training())
        spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.phases.items())
        lines.append(f"evaluations: {self.evaluations}; calibration samples: {self.sampling_size}; {spent}")
        return lines

    def describe_corrections(self) -> str:
        """How many operators are corrected, and the output errors by which that was decided."""
        plans = [name + ("" if error is None else f" {error:.2e}") for name, error in self.corrections]
        counts = Counter(name for operator in self.operators for name in operator.corrections)
        made = ", ".join(f"{name} of {count} operators" for name, count in counts.items()) or "none"
        return f"corrections: {made}; output error on held-out samples: {', '.join(plans)}"

    def describe_rounding(self) -> str | None:
        """How many weights are rounded by second moments, by which output errors that was decided, and which are not.

        None where no weight could be, or all of them were trained, for which rounding is only how they began.
        """
        quantized = [each for each in self.operators if each.approach is not None and not each.trained]
        rounded = [each for each in quantized if each.rounding == "second_moment"]
        measured = [(name.endswith(BY_SECOND_MOMENTS), error) for name, error in self.smoothing if error is not None]
        least = {way: min((error for by, error in measured if by is way), default=None) for way in (True, False)}
        if not quantized or not (rounded or least[True] is not None):
            return None
        text = f"weights rounded by second moments of their inputs: {len(rounded)} of {len(quantized)} operators"
        if least[True] is not None and least[False] is not None:
            text += f"; output error on held-out samples: {least[True]:.2e}, to nearest {least[False]:.2e}"
        others = [each for each in quantized if each.rounding != "second_moment"] if rounded else []
        if others:
            named = ", ".join(
                f"{each.name} ({each.type}" + (f": {each.rounding_reason})" if each.rounding_reason else ")")
                for each in others[:LARGEST_NAMED]
            )
            text += f"; to nearest: {named}" + (", ..." if len(others) > LARGEST_NAMED else "")
        return text

    def describe_training(self) -> str:
        """What was trained, how long it took, and where the weights are."""
        if not self.trained:
            return f"trained: {self.training_seconds:.1f} s, and a model that was not trained is the best"
        count = sum(operator.trained for operator in self.operators)
        file = "" if self.weights_file is None else f"; weights: {self.weights_file}"
        return f"trained: {count} of {len(self.operators)} operators, {self.training_seconds:.1f} s{file}"

    def _operator_table(self) -> list[str]:
        optional = optional_columns(self.operators, ("smoothing form", "rounding", "corrections"))
        rows = [("operator", "type", "dtype", "alpha", *optional, "reason")]
        for operator, *cells in zip(self.operators, *optional.values(), strict=True):
            words = (operator.dtype, operator.approach, "simulated" if operator.simulated else None)
            dtype = " ".join(word for word in words if word)
            rows.append((operator.name, operator.type, dtype, operator.alpha_text, *cells, operator.reason))
        return text_table(rows)

    def _trial_table(self) -> list[str]:
        measured = any(trial.gain is not None for trial in self.trials)
        rows = [("trial", "score", "met", *(["gain"] if measured else []), "seconds", "what was tried")]
        for trial in self.trials:
            score = f"{trial.score:.6g}" if trial.score is not None else trial.state
            gain = "" if trial.gain is None else f"{trial.gain:.2f}x"
            label = trial.label if trial.error is None else f"{trial.label}: {trial.error}"
            if trial.stopped_early:
                label += f" (stopped after {trial.samples} samples)"
            cells = (str(trial.number + 1), score, "yes" if trial.met else "no", *([gain] if measured else []))
            rows.append((*cells, f"{trial.seconds:.1f}", label))
        return text_table(rows)


def _smaller(ratio: float) -> str:
    return f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / ratio:.2f}x larger"
