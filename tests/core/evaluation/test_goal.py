import numpy as np
import pytest

from inc_autotune.core.arguments.autotune import AccuracyCriterion
from inc_autotune.core.errors import EvaluationError
from inc_autotune.core.evaluation.goal import Goal, checked_score
from inc_autotune.core.evaluation.metric import metric_value
from tests.hostile import Unreadable, UnreadableArray


@pytest.mark.parametrize(
    ("baseline", "criterion", "meets", "misses"),
    [
        (0.8, {"relative": 0.01}, 0.792, 0.7919),
        (0.8, {"absolute": 0.05}, 0.75, 0.7499),
        (20.0, {"relative": 0.01, "higher_is_better": False}, 20.2, 20.21),
        (20.0, {"absolute": 1, "higher_is_better": False}, 21.0, 21.01),
        (-5.0, {"relative": 0.1}, -5.5, -5.51),
        (-5.0, {"relative": 0.1, "higher_is_better": False}, -4.5, -4.49),
        (0.0, {"relative": 0.1}, 0.0, -1e-6),
        (0.0, {"absolute": 0.1}, -0.1, -0.11),
        (0.5, {"relative": 0.0}, 0.5, 0.4999),
    ],
)
def test_goal_in_both_directions_and_around_zero(baseline, criterion, meets, misses):
    goal = Goal(baseline, AccuracyCriterion(**criterion))
    assert goal.met(meets)
    assert not goal.met(misses)
    assert goal.better(meets, misses)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.array(0.5), np.array([0.5])])
def test_numbers_are_scores(value):
    assert checked_score(value, "x") == float(np.asarray(value).reshape(()))


@pytest.mark.parametrize(
    "value", [None, "0.1", True, [[1.0]], [0.5], {"accuracy": 1.0}, float("nan"), float("inf"), np.ones(3), object()]
)
def test_everything_else_is_an_error_that_says_what_to_return(value):
    with pytest.raises(EvaluationError, match="Return one finite number"):
        checked_score(value, "the fp32 model")


@pytest.mark.parametrize(
    "value",
    [
        np.bool_(True),
        np.array(True),
        np.timedelta64(5, "s"),
        np.complex64(1),
        np.ma.masked,
        np.ma.masked_array([0.5], [False]),
        memoryview(b"a"),
        Unreadable(),
        UnreadableArray(),
    ],
    ids=range(9),
)
def test_what_only_looks_like_a_number_is_no_score(value):
    with pytest.raises(EvaluationError, match="Return one finite number"):
        checked_score(value, "the fp32 model")
    with pytest.raises(EvaluationError, match="must return a"):
        metric_value(value, "m")


def test_none_explains_the_third_argument():
    with pytest.raises(EvaluationError, match=r"third positional argument is eval_func; in torch_ext, .* calib_func="):
        checked_score(None, "the fp32 model")


@pytest.mark.parametrize("value", [[0.5, 1.0], (0.5, 1.0)])
def test_a_list_may_be_loss_and_accuracy_and_so_is_no_array_of_scores(value):
    with pytest.raises(EvaluationError, match=r"Per-sample scores: wrap them in np\.array"):
        checked_score(value, "the fp32 model")


def test_a_long_list_is_not_repeated_in_full():
    with pytest.raises(EvaluationError) as caught:
        checked_score([0.5] * 10_000, "the fp32 model")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("baseline", "criterion", "words"),
    [
        (0.0, {}, "scores 0"),
        (0.0, {"absolute": 0.1}, None),
        (0.0, {"higher_is_better": False}, None),
        (0.9, {"absolute": 1}, "'absolute': 1} tolerates the loss of the whole score 0.9"),
        (76.1, {"absolute": 1}, None),
        (-3.0, {"absolute": 4}, None),
        (0.9, {}, None),
    ],
)
def test_a_strange_goal_is_doubted(baseline, criterion, words):
    doubt = Goal(baseline, AccuracyCriterion.model_validate(criterion)).doubt()
    assert doubt is None if words is None else words in doubt
