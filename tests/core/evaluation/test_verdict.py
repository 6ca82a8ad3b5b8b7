"""What evaluations may return, and the verdicts on them."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inc_autotune.core.arguments.autotune import AccuracyCriterion
from inc_autotune.core.errors import EvaluationError
from inc_autotune.core.evaluation.confidence import (
    betting_interval,
    look_sizes,
    matched_pairs_interval,
    mean_interval,
    student_t_quantile,
)
from inc_autotune.core.evaluation.goal import Goal
from inc_autotune.core.evaluation.verdict import Scores, judge, read_scores
from tests.hostile import UnreadableArray

SCORES = np.random.default_rng(5).normal(0.8, 0.1, 2000)


def baseline_and_goal(samples, **criterion):
    baseline = read_scores(np.asarray(samples), "fp32")
    return baseline, Goal(baseline.mean, AccuracyCriterion(**(criterion or {"absolute": 0.01})))


def verdict(value, samples, **criterion):
    return judge(value, *baseline_and_goal(samples, **criterion), "trial 1")


def pieces(samples, size=16):
    """What a generator yields; remembers how much was asked for and whether it was closed."""

    class Reader:
        read, closed = 0, False

        def __iter__(self):
            return self

        def __next__(self):
            if self.read >= len(samples):
                raise StopIteration
            self.read += size
            return samples[self.read - size : self.read]

        def close(self):
            self.closed = True

    return Reader()


class Tensor:
    """The face every framework's tensor shows, and nothing of numpy's."""

    def __init__(self, values):
        self.values, self.shape = values, (len(values),)

    def tolist(self):
        return list(self.values)


# Reading


@pytest.mark.parametrize(
    ("value", "mean", "count"),
    [
        (0.5, 0.5, None),
        (np.array([0.5]), 0.5, None),
        (np.array([1, 0, 1, 1]), 0.75, 4),
        (np.array([True, False]), 0.5, 2),
        (Tensor([0.25, 0.75]), 0.5, 2),
        (np.array([0.25, 0.75], np.float16), 0.5, 2),
        (iter([0.0, 1.0]), 0.5, 2),
        (iter([True, np.array(0.0), np.array([1.0, 1.0]), Tensor([0.0])]), 0.6, 5),
        ((float(i) for i in range(5)), 2.0, 5),
        (iter([0.5]), 0.5, None),
    ],
)
def test_one_number_an_array_or_pieces(value, mean, count):
    scores = read_scores(value, "the fp32 model")
    assert scores.mean == mean
    assert (None if scores.samples is None else len(scores.samples)) == count


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "returned None"),
        ([0.1, 0.2], "list"),
        (np.ones((3, 2)), r"shape \(3, 2\)"),
        (np.ones(0), r"shape \(0,\)"),
        (np.array(["a", "b"]), "dtype"),
        (np.array([1j, 2j]), "dtype"),
        (np.array([1.0, 2.0, np.nan]), "nan as the score of sample 2"),
        (np.array([1.0, np.inf, np.nan]), r"inf as the score of sample 1 .*\(2 such"),
        (iter([]), "nothing"),
        (iter([np.ones(4), np.array([1.0, np.nan])]), "sample 5"),
        (iter([0.5, float("nan")]), "nan .* sample 1"),
        (iter([0.5, None]), "None .* sample 1"),
        (iter([[0.5]]), "list"),
        (iter([np.ones((2, 2))]), r"shape \(2, 2\)"),
        ({"accuracy": 1.0}, "dict"),
        (np.ma.masked_array([0.5, 0.1], [True, False]), "MaskedArray"),
        (memoryview(b"ab"), "memoryview"),
        (iter([np.ma.masked]), "masked"),
        (iter([np.timedelta64(1, "s")]), "timedelta"),
        (UnreadableArray(), "no array of numbers"),
    ],
)
def test_everything_else_is_an_error_that_names_the_model_and_the_way_out(value, message):
    with pytest.raises(EvaluationError, match=f"(?s)(?=.*{message})(?=.*trial 3)(?=.*Return one finite number)"):
        read_scores(value, "trial 3")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=50))
def test_samples_survive_storage_to_the_bit(values):
    scores = Scores(0.5, np.array(values))
    assert Scores.decode(0.5, scores.encode()).samples.tobytes() == scores.samples.tobytes()


def test_storage_is_small():
    right = Scores(0.9, (np.random.default_rng(0).random(50_000) < 0.9).astype(float))
    assert len(right.encode()) < 16_000
    assert Scores(0.5).encode() == ""
    assert Scores.decode(0.5, "") == Scores(0.5)


# Verdicts


@pytest.mark.parametrize(("value", "expected"), [(0.8, "pass"), (0.7, "fail")])
def test_one_number_has_no_interval(value, expected):
    goal = Goal(0.8, AccuracyCriterion(relative=0.01))
    judgement = judge(value, Scores(0.8), goal, "trial 1")
    assert (judgement.verdict, judgement.score, judgement.interval) == (expected, value, None)
    assert judgement.describe(goal) == f"{expected} (no interval: eval_func returned one number)"


def test_samples_against_a_baseline_of_one_number_have_no_interval():
    judgement = judge(iter([0.5, 0.9]), Scores(0.7), Goal(0.7, AccuracyCriterion(absolute=0.1)), "trial 1")
    assert (judgement.verdict, judgement.interval, judgement.score) == ("pass", None, 0.7)


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize(("loss", "expected"), [(0.0, "pass"), (0.01, "undecided"), (0.03, "fail"), (-0.1, "pass")])
def test_the_interval_decides_in_both_directions(higher, loss, expected):
    noise = np.random.default_rng(1).normal(0, 0.05, 2000)
    noise -= noise.mean()
    candidate = SCORES - (loss + noise) * (1 if higher else -1)
    judgement = verdict(candidate, SCORES, absolute=0.01, higher_is_better=higher)
    low, high = judgement.interval
    assert judgement.verdict == expected
    assert (low + high) / 2 == pytest.approx(loss, abs=1e-12)
    assert high - low == pytest.approx(2 * 1.96 * 0.05 / math.sqrt(2000), rel=0.05)
    assert judgement.score == pytest.approx(candidate.mean())
    assert judgement.count == 2000


def test_pairing_decides_what_two_means_could_not():
    # The samples scatter by 0.1, the differences by 0.001.
    candidate = SCORES[:100] - np.random.default_rng(2).normal(0.004, 0.001, 100)
    judgement = verdict(candidate, SCORES[:100], absolute=0.005)
    assert judgement.verdict == "pass"
    assert 0.1 / math.sqrt(100) > 0.005 - 0.004


@pytest.mark.parametrize("higher", [True, False])
def test_a_loss_equal_to_the_tolerance_passes_and_a_little_more_does_not(higher):
    sign = 1 if higher else -1
    criterion = {"absolute": 0.1, "higher_is_better": higher}
    assert verdict(SCORES - sign * 0.1, SCORES, **criterion).verdict == "pass"
    assert verdict(SCORES - sign * 0.1001, SCORES, **criterion).verdict == "fail"


def test_identical_scores_pass_once_their_number_allows_no_larger_loss():
    assert verdict(SCORES.copy(), SCORES).verdict == "pass"
    reader = pieces(SCORES)
    judgement = verdict(reader, SCORES, absolute=0.05)
    assert (judgement.verdict, judgement.count) == ("pass", 176)
    assert reader.read == 176
    assert judgement.score == SCORES.mean()
    low, high = judgement.interval
    assert low < 0 < high < 0.05
    assert verdict(pieces(SCORES), SCORES).stopped_early


def test_equal_answers_prove_only_what_their_number_allows():
    """None of n samples lost still allows a loss of about 3.8 / n."""
    right = (np.arange(400) % 10 > 0).astype(float)
    assert verdict(right, right, absolute=0.0095).verdict == "undecided"
    judgement = verdict(right, right, absolute=0.0096)
    assert judgement.verdict == "pass"
    assert judgement.interval[1] == pytest.approx(1.96**2 / (400 + 1.96**2), rel=1e-3)
    assert verdict(right[:32], right[:32], absolute=0.05).verdict == "undecided"


def test_undecided_is_met_by_the_score_itself():
    right = (np.arange(400) % 10 > 0).astype(float)
    lost = right.copy()
    lost[np.flatnonzero(right)[:3]] = 0.0
    judgement = verdict(lost, right)
    assert (judgement.verdict, judgement.met) == ("undecided", True)
    lost[np.flatnonzero(right)[:5]] = 0.0
    judgement = verdict(lost, right)
    assert (judgement.verdict, judgement.met) == ("undecided", False)


def test_the_unit_of_the_scores_does_not_matter():
    generator = np.random.default_rng(3)
    right = (generator.random(1000) < 0.9).astype(float)
    other = np.where(generator.random(1000) < 0.05, 1 - right, right)
    one, hundred = verdict(other, right, relative=0.02), verdict(100 * other, 100 * right, relative=0.02)
    assert hundred.interval == pytest.approx([100 * end for end in one.interval], abs=1e-8)
    assert one.verdict == hundred.verdict


def test_words():
    baseline, goal = baseline_and_goal(np.full(100, 0.5) + np.linspace(-0.1, 0.1, 100), relative=0.1)
    judgement = judge(baseline.samples + 0.01 * (-1) ** np.arange(100), baseline, goal, "trial 1")
    assert judgement.describe(goal) == "pass (95 % interval of the loss -0.4 % to 0.4 %, n = 100)"
    absolute = Goal(baseline.mean, AccuracyCriterion(absolute=0.1))
    assert judgement.describe(absolute) == "pass (95 % interval of the loss -0.002 to 0.002, n = 100)"
    early = verdict(pieces(SCORES - 0.4), SCORES)
    assert early.describe(goal).endswith("n = 32, stopped early)")


@pytest.mark.parametrize("count", [1999, 2001, 500])
@pytest.mark.parametrize("form", [np.asarray, pieces, lambda samples: iter(samples.tolist())])
def test_another_number_of_samples_is_an_error(count, form):
    # The losses alternate about the tolerance, so nothing stops early.
    samples = np.resize(SCORES, count) - np.where(np.arange(count) % 2, 0.5, -0.48)
    with pytest.raises(EvaluationError, match=r"per-sample scores for trial 1, but 2000 for the fp32 model"):
        verdict(form(samples), SCORES)


def test_a_candidate_is_checked_like_the_baseline():
    with pytest.raises(EvaluationError, match="nan as the score of sample 1 for trial 1"):
        verdict(np.array([1.0, np.nan]), SCORES[:2])
    with pytest.raises(EvaluationError, match="nan as the score of sample 20 for trial 1"):
        verdict(pieces(np.where(np.arange(2000) == 20, np.nan, SCORES)), SCORES)


# Stopping early


def test_hopeless_stops_at_one_of_the_first_looks_and_closes_the_generator():
    closed = []

    def evaluation():
        try:
            yield from SCORES - 0.4 + np.random.default_rng(1).normal(0, 0.05, 2000)
        finally:
            closed.append(True)

    judgement = verdict(evaluation(), SCORES)
    assert (judgement.verdict, judgement.met, judgement.stopped_early) == ("fail", False, True)
    assert judgement.count <= 72
    assert closed == [True]
    # The score is what fp32 would have lost on all samples, not the mean of the first ones.
    assert judgement.score == pytest.approx(SCORES.mean() - 0.4, abs=0.03)


@pytest.mark.parametrize(("total", "expected"), [(20, ()), (32, ()), (33, (32,)), (100, (32, 48, 72))])
def test_looks_start_at_32_and_grow_by_half(total, expected):
    assert look_sizes(total) == expected


def test_large_pieces_are_looked_at_as_they_come():
    reader = pieces(SCORES - 0.4, size=300)
    assert verdict(reader, SCORES).count == 300
    assert reader.closed


def test_less_than_32_samples_are_all_read():
    assert not verdict(pieces(SCORES[:31] - 0.4, size=4), SCORES[:31]).stopped_early


def test_right_or_wrong_collapses_early_and_small_losses_are_read_to_the_end():
    right = (np.random.default_rng(0).random(2000) < 0.9).astype(float)
    random = (np.random.default_rng(1).random(2000) < 0.5).astype(float)
    assert verdict(pieces(random), right).count <= 72
    few = np.where(np.random.default_rng(2).random(2000) < 0.01, 0.0, right)
    judgement = verdict(pieces(few), right)
    assert (judgement.verdict, judgement.count) == ("undecided", 2000)


def test_data_in_order_of_difficulty_does_not_stop():
    ordered = np.sort((np.random.default_rng(0).random(2000) < 0.8).astype(float))[::-1].copy()
    lost = ordered.copy()
    lost[:200] = 0.0
    judgement = verdict(pieces(lost), ordered, absolute=0.2)
    # The first 200 samples are all lost, 10 % in all: an early verdict would have been wrong.
    assert (judgement.verdict, judgement.count) == ("pass", 2000)


def right_or_wrong(lost, gained):
    def draw(generator, count):
        right = (generator.random(count) < 0.9).astype(float)
        chance = generator.random(count)
        other = np.where(right == 1, chance >= lost / 0.9, chance < gained / 0.1).astype(float)
        return right, other

    return draw


def graded(scale, shape=None):
    """Losses of mean 0.01: normal, or lognormal and skewed."""

    def draw(generator, count):
        reference = generator.normal(0.8, 0.1, count)
        noise = generator.normal(0, 1, count)
        if shape is not None:
            noise = np.exp(shape * noise) - math.exp(shape**2 / 2)
        return reference, reference - 0.01 - scale * noise

    return draw


def failing(noise, lowest=0.0, loss=0.01):
    """Scores that hardly change, but for a few samples on which the candidate fails altogether."""

    def draw(generator, count):
        reference = lowest + (1 - lowest) * generator.random(count)
        candidate = reference + noise * generator.normal(0, 1, count)
        candidate[generator.random(count) < 2 * loss / (1 + lowest)] = 0.0
        return reference, candidate

    return draw


@pytest.mark.parametrize(
    "draw",
    [
        right_or_wrong(0.02, 0.01),
        right_or_wrong(0.06, 0.05),
        graded(0.05),
        graded(0.05, 0.5),
        graded(0.05, 1.0),
        failing(0.0),
        failing(1e-4),
        failing(1e-4, lowest=0.9),
    ],
)
def test_error_rates_hold_where_the_true_loss_is_the_tolerance(draw):
    """At the boundary every verdict is wrong one way: 5 % of them at most, early ones 1 % (plus simulation noise)."""
    generator, runs = np.random.default_rng(7), 200
    judgements = []
    for _ in range(runs):
        reference, candidate = draw(generator, 600)
        judgements.append(verdict(pieces(candidate, 40), reference, absolute=0.01))
    decided = sum(judgement.verdict != "undecided" for judgement in judgements) / runs
    early = sum(judgement.stopped_early for judgement in judgements) / runs
    assert decided <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert early <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / runs)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("lowest", [0.0, 0.9])
def test_samples_that_fail_after_the_first_looks_are_reckoned_with(noise, lowest):
    """A loss of twice the tolerance, in two or four of a hundred samples: none of the first 32 need show it."""
    generator, judgements = np.random.default_rng(3), []
    for _ in range(20):
        reference, candidate = failing(noise, lowest, loss=0.02)(generator, 2000)
        judgements.append(verdict(pieces(candidate), reference))
    assert not any(judgement.verdict == "pass" for judgement in judgements)
    assert sum(judgement.verdict == "fail" for judgement in judgements) > 15


@pytest.mark.parametrize(("tolerance", "most"), [(0.01, 1845), (0.05, 300), (0.1, 150)])
def test_what_loses_nothing_still_passes_early(tolerance, most):
    generator, counts = np.random.default_rng(4), []
    for _ in range(20):
        reference = generator.normal(0.8, 0.1, 2000)
        counts.append(verdict(pieces(reference + generator.normal(0, 0.03, 2000)), reference, absolute=tolerance).count)
    assert np.median(counts) <= most


# Intervals


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.95, 5, 2.01505),
        (0.975, 30, 2.04227),
        (0.9995, 40, 3.55097),
        (0.99, 120, 2.35782),
        (0.975, 1000, 1.96234),
    ],
)
def test_student_t_agrees_with_the_tables(probability, degrees, expected):
    assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=5e-6)


@pytest.mark.parametrize("probability", [0.9, 0.975, 0.9999])
def test_the_two_formulas_of_student_t_meet(probability):
    low, middle, high = (student_t_quantile(probability, degrees) for degrees in (198, 199, 200))
    assert low > middle > high > NormalDist().inv_cdf(probability)
    assert low - middle == pytest.approx(middle - high, rel=0.05)


@pytest.mark.parametrize("count", [5, 20, 200])
def test_t_interval_covers_as_promised(count):
    samples = np.random.default_rng(0).normal(0.3, 1.0, (1000, count))
    covered = [low <= 0.3 <= high for low, high in (mean_interval(row, 0.05) for row in samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("count", [30, 100, 400])
@pytest.mark.parametrize(("lost", "gained"), [(0.01, 0.0), (0.03, 0.02), (0.1, 0.05), (0.02, 0.06)])
def test_matched_pairs_interval_covers_as_promised(count, lost, gained):
    drawn = np.random.default_rng(0).multinomial(count, [lost, gained, 1 - lost - gained], 2000)
    tables, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    covered = 0
    for (losses, gains), repeats in zip(tables.tolist(), times.tolist(), strict=True):
        low, high = matched_pairs_interval(losses, gains, count, 0.05)
        covered += repeats * (low - 1e-9 <= lost - gained <= high + 1e-9)
    # Counts are whole numbers, so no interval covers exactly 95 % everywhere; this one stays near it.
    assert covered / 2000 >= 0.92


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 100))
def test_matched_pairs_interval_holds_the_estimate_and_mirrors(losses, gains, equal):
    count = losses + gains + equal
    if count == 0:
        return
    low, high = matched_pairs_interval(losses, gains, count, 0.05)
    assert -1 <= low <= (losses - gains) / count + 1e-9
    assert (losses - gains) / count - 1e-9 <= high <= 1
    assert matched_pairs_interval(gains, losses, count, 0.05) == (-high, -low)


def test_matched_pairs_interval_solves_the_score_equation():
    """At an end of the interval the score statistic, with the constrained estimate, equals the normal quantile."""
    losses, gains, count = 16, 4, 54
    _, high = matched_pairs_interval(losses, gains, count, 0.05)
    # The constrained maximum of the likelihood, by brute force over the probability of a gain.
    gain = np.linspace(1e-9, (1 - high) / 2 - 1e-9, 2_000_001)
    equal = 1 - 2 * gain - high
    likelihood = losses * np.log(gain + high) + gains * np.log(gain) + (count - losses - gains) * np.log(equal)
    variance = count * (2 * gain[np.argmax(likelihood)] + high - high**2)
    assert (count * high - losses + gains) / math.sqrt(variance) == pytest.approx(1.95996, rel=1e-4)


@settings(max_examples=30)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_betting_interval_holds_the_mean_and_stays_in_range(values):
    low, high = betting_interval(np.array(values), 0.05)
    assert -1 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= 1


def test_betting_interval_covers_at_all_sizes_at_once():
    generator, missed = np.random.default_rng(0), 0
    for _ in range(150):
        differences = generator.choice([-1.0, 0.0, 1.0], 500, p=[0.02, 0.95, 0.03])
        intervals = (betting_interval(differences[:size], 0.1) for size in (10, 32, 60, 100, 200, 300, 400, 500))
        missed += any(not low <= 0.01 <= high for low, high in intervals)
    assert missed / 150 <= 0.1
