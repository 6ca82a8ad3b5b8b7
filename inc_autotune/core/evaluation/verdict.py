"""Scores that an evaluation returned, and the verdict on them.

An evaluation returns one number, or the scores of single samples (at once or piece by piece). With the scores of
single samples a candidate is compared with fp32 sample by sample, which tells a real loss from chance, and an
evaluation that arrives piece by piece ends as soon as the verdict is clear.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import EvaluationError, NonFiniteScoreError
from inc_autotune.core.evaluation.confidence import (
    EARLY_SHARE,
    FIRST_LOOK,
    Interval,
    Samples,
    final_interval,
    largest_difference,
    look_interval,
    look_sizes,
    representative,
    score_range,
)
from inc_autotune.core.evaluation.goal import Goal, checked_score, is_no_number

Verdict = Literal["pass", "fail", "undecided"]

MOST_SAMPLES = 2**24
"""Scores of one evaluation. What yields more does not end."""

_REMEDY = (
    "Return one finite number; or the scores of the single samples as a 1-D array or tensor; or yield those piece by "
    "piece, as numbers or 1-D arrays. Their mean is the score."
)


@dataclass(frozen=True)
class Scores:
    """The scores of one evaluation.

    Args:
        mean: the score.
        samples: scores of the single samples, float64, shape [n], n >= 2; None if only one number is known.
        is_cut: whether there were more, which nobody waited for. The same number of samples is read of candidates.
    """

    mean: float
    samples: Samples | None = None
    is_cut: bool = False

    def encode(self) -> str:
        """The samples as a short text for a database, exact to the bit; empty without samples."""
        if self.samples is None:
            return ""
        # Bytes of equal significance lie side by side, so that scores with few different values compress well.
        planes = self.samples.astype("<f8").view(np.uint8).reshape(-1, 8).T.tobytes()
        return base64.b64encode(zlib.compress(planes)).decode()

    @classmethod
    def decode(cls, mean: float, text: str, *, is_cut: bool = False) -> Scores:
        """Inverse of `encode`, given what else is known."""
        if not text:
            return cls(mean)
        planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(8, -1)
        return cls(mean, np.ascontiguousarray(planes.T).view("<f8").reshape(-1).astype(np.float64), is_cut)


@dataclass(frozen=True)
class Judgement:
    """The verdict on one candidate.

    Args:
        score: the candidate's score. After an early stop: the fp32 score minus the mean loss on the samples seen, an
            estimate for all samples that can be compared with the scores of other candidates.
        met: whether the score meets the goal; agrees with `verdict` unless that is `undecided`.
        verdict: `pass` or `fail` if the interval lies on one side of the tolerance, `undecided` if the tolerance is
            inside the interval. Without an interval, `met` in words.
        interval: of the mean loss against fp32, in the score's unit, positive is worse; None for a plain number.
        confidence: of the interval, valid over early stops too.
        count: samples compared; None for a plain number.
        stopped_early: whether the evaluation was ended before its last sample.
    """

    score: float
    met: bool
    verdict: Verdict
    interval: Interval | None = None
    confidence: float = 0.95
    count: int | None = None
    stopped_early: bool = False

    def describe(self, goal: Goal) -> str:
        """For instance `pass (95 % interval of the loss -0.2 % to 0.4 %, n = 2000)`."""
        if self.interval is None:
            return f"{self.verdict} (no interval: eval_func returned one number)"
        relative = goal.criterion.absolute is None and goal.baseline != 0
        unit, suffix = (abs(goal.baseline) / 100, " %") if relative else (1.0, "")
        low, high = (f"{bound / unit + 0.0:.2g}{suffix}" for bound in self.interval)
        count = f"n = {self.count}" + (", stopped early" if self.stopped_early else "")
        return f"{self.verdict} ({100 * self.confidence:g} % interval of the loss {low} to {high}, {count})"


def read_scores(value: Any, what: str, is_late: Callable[[], bool] = lambda: False) -> Scores:
    """The scores in a value that eval_func returned.

    Args:
        value: one number; a 1-D array or tensor of at least two per-sample scores (bool, integer or floating); or an
            iterator of numbers and 1-D arrays, which is read to its end.
        what: which model was evaluated, for messages.
        is_late: whether to wait no longer for an iterator that has given `FIRST_LOOK` samples.

    Raises:
        EvaluationError: the value is none of these, is empty, or has more than `MOST_SAMPLES`.
        NonFiniteScoreError: a score is NaN or infinite; the message names the first such sample.
    """
    if isinstance(value, Iterator):
        return _read_iterator(value, what, is_late)
    if _is_array(value):
        return _scores(_piece(value, what, 0))
    return Scores(checked_score(value, what))


def _read_iterator(value: Iterator[Any], what: str, is_late: Callable[[], bool]) -> Scores:
    pieces, count, is_cut = [], 0, False
    with closing_iterator(value):
        for part in value:
            pieces.append(_piece(part, what, count))
            count += len(pieces[-1])
            if count > MOST_SAMPLES:
                raise EvaluationError(
                    f"eval_func yielded more than {MOST_SAMPLES} scores for {what}. It must end: score each sample "
                    "once."
                )
            if count >= FIRST_LOOK and is_late():
                is_cut = True
                break
    if not pieces:
        raise EvaluationError(f"eval_func yielded nothing for {what}. {_REMEDY}")
    return replace(_scores(np.concatenate(pieces)), is_cut=is_cut)


@contextmanager
def closing_iterator(iterator: Iterator[Any]) -> Iterator[None]:
    """Close an iterator here, and not when garbage is collected: it releases its memory before the next one begins."""
    try:
        yield
    finally:
        getattr(iterator, "close", lambda: None)()


def judge(value: Any, baseline: Scores, goal: Goal, what: str, alpha: float = 0.05) -> Judgement:
    """The verdict on a candidate; a paired comparison with fp32 if both have per-sample scores.

    With per-sample scores the interval of the mean loss over the same samples is compared with the goal's tolerance
    (a non-inferiority test, two-sided, error rate `alpha`). An iterator is read piece by piece. From 32 samples on, at
    sizes that grow by half, it is closed if the verdict is clear. A fifth of `alpha` is reserved for these looks, so
    that the error rate holds for all of them together. Early stops need samples in random order, the same in every
    call; if the first fp32 scores are not like the rest, there is no early stop.

    The tolerance counts as exact, although a relative tolerance comes from a measured fp32 score.

    Args:
        value: what eval_func returned for the candidate, see `read_scores`.
        baseline: scores of the fp32 model.
        goal: the tolerance.
        what: which candidate, for messages.
        alpha: probability that the interval misses the true loss.

    Raises:
        EvaluationError: as in `read_scores`, or the number of samples differs from that of fp32.
    """
    if baseline.samples is None or not (isinstance(value, Iterator) or _is_array(value)):
        score = read_scores(value, what).mean
        met = goal.met(score)
        return Judgement(score, met, "pass" if met else "fail", confidence=1 - alpha)
    if not isinstance(value, Iterator):
        samples = _piece(value, what, 0)
        _check_length(len(samples), len(baseline.samples), what)
        return _judgement(samples, baseline, goal, alpha, looks=0)
    return _judge_pieces(value, baseline, baseline.samples, goal, what, alpha)


def _judge_pieces(
    pieces: Iterator[Any], baseline: Scores, reference: Samples, goal: Goal, what: str, alpha: float
) -> Judgement:
    """Read scores until the iterator ends or the verdict is clear."""
    looks = look_sizes(len(reference))
    samples, count = np.empty(len(reference)), 0
    pending = list(looks)
    with closing_iterator(pieces):
        for part in pieces:
            piece = _piece(part, what, count)
            if baseline.is_cut:
                piece = piece[: len(reference) - count]
            if count + len(piece) > len(reference):
                _check_length(count + len(piece), len(reference), what)
            samples[count : count + len(piece)] = piece
            count += len(piece)
            if baseline.is_cut and count == len(reference):
                break
            if not pending or count < pending[0] or count == len(reference):
                continue
            while pending and pending[0] <= count:
                pending.pop(0)
            if representative(reference, count):
                judgement = _judgement(samples[:count], baseline, goal, alpha, looks=len(looks))
                if judgement.verdict != "undecided":
                    return judgement
    _check_length(count, len(reference), what)
    return _judgement(samples, baseline, goal, alpha, looks=len(looks))


def _judgement(samples: Samples, baseline: Scores, goal: Goal, alpha: float, looks: int) -> Judgement:
    """Compare scores with the fp32 scores of the same samples."""
    assert baseline.samples is not None
    reference = baseline.samples[: len(samples)]
    losses = reference - samples if goal.criterion.higher_is_better else samples - reference
    early = len(samples) < len(baseline.samples)
    bound = score_range(reference, samples)
    if early:
        possible = largest_difference(baseline.samples, samples)
        interval = look_interval(losses, possible, alpha * EARLY_SHARE, looks, dense=bound is None)
    else:
        interval = final_interval(losses, bound, alpha * (1 - EARLY_SHARE) if looks else alpha)
    loss = float(np.mean(losses))
    score = float(baseline.mean - loss if goal.criterion.higher_is_better else baseline.mean + loss)
    met = bool(goal.met(score))
    # `met` allows for float rounding, so the ends of the interval are compared by `met` too.
    ends = [
        goal.met(goal.baseline - end if goal.criterion.higher_is_better else goal.baseline + end) for end in interval
    ]
    verdict: Verdict = "pass" if all(ends) else "undecided" if any(ends) else "fail"
    return Judgement(score, met, verdict, interval, 1 - alpha, len(samples), early)


def _scores(samples: Samples) -> Scores:
    return Scores(float(np.mean(samples)), samples if len(samples) > 1 else None)


def _is_array(value: Any) -> bool:
    """Whether a value is an array or tensor that has not exactly one element."""
    shape = getattr(value, "shape", None)
    return shape is not None and not is_no_number(value) and math.prod(shape) != 1


def _piece(value: Any, what: str, start: int) -> Samples:
    """Per-sample scores as float64, shape [n >= 1], the first of which is sample `start`."""
    if isinstance(value, (bool, np.bool_)):
        return np.array([float(value)])
    shape = None if is_no_number(value) else getattr(value, "shape", None)
    if shape is None or (len(shape) == 0):
        return np.array([_number(value, what, start)])
    if len(shape) != 1 or shape[0] == 0:
        raise EvaluationError(
            f"eval_func gave an array of shape {tuple(shape)} for {what} (sample {start} and on). {_REMEDY}"
        )
    # `tolist` brings tensors of every dtype and device to the host.
    try:
        array = np.asarray(value.tolist() if hasattr(value, "tolist") and not isinstance(value, np.ndarray) else value)
    except Exception as error:  # a sparse tensor, one without values
        raise EvaluationError(
            f"eval_func gave a {type(value).__name__} for {what} that is no array of numbers: {error}. {_REMEDY}"
        ) from error
    if array.dtype.kind not in "buif":
        raise EvaluationError(f"eval_func gave an array of dtype {array.dtype} for {what}. {_REMEDY}")
    samples = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(samples))
    if len(bad):
        raise _not_finite(samples[bad[0]], start + bad[0], what, len(bad))
    return samples


def _number(value: Any, what: str, index: int) -> float:
    try:
        return checked_score(value, what)
    except NonFiniteScoreError as error:
        raise _not_finite(float(value), index, what) from error
    except EvaluationError as error:
        raise EvaluationError(
            f"eval_func yielded {shown(value)} ({type(value).__name__}) as the score of sample {index} for {what}. "
            f"{_REMEDY}"
        ) from error


def _not_finite(score: float, index: int, what: str, count: int = 1) -> NonFiniteScoreError:
    others = f" ({count} such samples)" if count > 1 else ""
    return NonFiniteScoreError(
        f"eval_func gave {score} as the score of sample {index} for {what}{others}. {_REMEDY}",
        f"the score of sample {index} is {score}{others}",
    )


def _check_length(count: int, expected: int, what: str) -> None:
    if count != expected:
        raise EvaluationError(
            f"eval_func gave {'at least ' if count > expected else ''}{count} per-sample scores for {what}, but "
            f"{expected} for the fp32 model. Samples are compared one by one: score the same samples in the same "
            "order for every model."
        )
