"""Which smoothing plan is tried first, by errors the test chooses and by those of the numpy framework."""

from dataclasses import replace

import numpy as np
import pytest

from inc_autotune.core.analysis import smoothing_plan
from inc_autotune.core.analysis.output_error import output_error
from inc_autotune.core.analysis.smoothing_plan import OFF as OFF_PLAN
from inc_autotune.core.analysis.smoothing_plan import plan_smoothing, planned_steps
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import QuantizationError
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization.smoothquant import InputGroup, alpha_grid, search_alpha
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.core.search.options import offered_options
from inc_autotune.core.space.units import build_space
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

GRID = alpha_grid(0.0, 1.0, 0.1)
AUTO = validate_arguments(
    strategies=["auto"],
    backends=["default"],
    smoothquant_args={"alpha": "auto", "auto_alpha_args": {"alpha_min": 0.0, "alpha_max": 1.0, "alpha_step": 0.1}},
).smoothing
OFF, SEVERAL = None, "several"


class Scripted(NumpyAdaptor):
    """The error at the output is a function of the alpha all units have, of OFF or of SEVERAL; asked ones are kept."""

    def __init__(self, error_of):
        super().__init__()
        self.error_of, self.asked = error_of, []

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        assert tune_cfg["without_held_out"]
        alphas = tune_cfg["recipe_cfgs"]["smooth_quant_args"]["alpha"]
        kinds = set(alphas.values())
        same = len(kinds) == 1 and len(alphas) == len(tune_cfg["op"])
        self.asked.append(kinds.pop() if same else SEVERAL if kinds else OFF)
        return self.error_of(self.asked[-1])

    def reference_outputs(self):
        return [np.ones(1)]

    def run(self, candidate):
        return [np.ones(1) + np.sqrt(candidate)]


def prepared(adaptor, outlier=20.0):
    model = random_model(outlier=outlier)
    size = adaptor.calibrate(model, [np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)], (64,))
    return model, build_space(offered_options(adaptor, model)), size


def plans_of(adaptor, **limits):
    model, space, size = prepared(adaptor)
    return plan_smoothing(adaptor, model, space, AUTO, size, **limits)


def valley(best, off=1.0, several=1.0):
    return lambda alpha: {OFF: off, SEVERAL: several}.get(alpha, 0.1 + abs(alpha - best) if alpha in GRID else 1.0)


@pytest.mark.parametrize("best", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_the_best_global_alpha_is_found_wherever_the_local_losses_start(best):
    adaptor = Scripted(valley(best))
    plans = plans_of(adaptor)
    assert plans[0].name == f"alpha {best:g}"
    assert plans[0].output_error == pytest.approx(0.1)
    assert len(adaptor.asked) == len(set(adaptor.asked))


@pytest.mark.parametrize(("off", "several", "first"), [(0.01, 0.5, "off"), (0.5, 0.01, "layer-wise")])
def test_the_best_of_off_global_and_layer_wise_is_tried_first(off, several, first):
    plans = plans_of(Scripted(valley(0.7, off=off, several=several)))
    assert plans[0].name == first
    assert {plan.name for plan in plans} == {"off", "layer-wise", "alpha 0.7"}
    assert [plan.required for plan in plans] == [True, False, False]
    assert [plan.output_error for plan in plans] == sorted(plan.output_error for plan in plans)


@pytest.mark.parametrize(("slope", "passes"), [(1.0, 3), (0.01, 5)])
def test_a_minimum_at_the_start_costs_two_more_forward_passes_where_it_is_steep_and_else_four(slope, passes):
    adaptor = Scripted(valley(0.0))
    first = [plan.name for plan in plans_of(adaptor)]
    start = next(alpha for alpha in adaptor.asked if isinstance(alpha, float))
    again = Scripted(lambda alpha: 0.1 + slope * abs(alpha - start) if isinstance(alpha, float) else 1.0)
    plans_of(again)
    assert "alpha 0" in first
    assert len([alpha for alpha in again.asked if isinstance(alpha, float)]) == passes


@pytest.mark.parametrize(("several", "first"), [(0.098, "alpha 0.7"), (0.096, "layer-wise")])
def test_an_alpha_for_each_layer_has_to_be_clearly_better_than_one_for_all(several, first):
    assert plans_of(Scripted(valley(0.7, several=several)))[0].name == first


@pytest.mark.parametrize(
    ("off", "several", "first"),
    [(0.108, 1.0, "off"), (0.112, 1.0, "alpha 0.7"), (0.1, 0.089, "off"), (0.1, 0.087, "layer-wise")],
)
def test_smoothing_has_to_be_clearly_better_than_none(off, several, first):
    assert plans_of(Scripted(valley(0.7, off=off, several=several)))[0].name == first


@pytest.mark.parametrize("step", [-1, 1])
def test_the_walk_goes_over_a_single_alpha_that_is_worse(step):
    adaptor = Scripted(valley(0.0))
    plans_of(adaptor)
    start = GRID.index(next(alpha for alpha in adaptor.asked if isinstance(alpha, float)))
    assert 2 <= start <= len(GRID) - 3
    bumpy = {GRID[start]: 0.5, GRID[start + step]: 0.6, GRID[start + 2 * step]: 0.4}
    plans = plans_of(Scripted(lambda alpha: {OFF: 1.0, SEVERAL: 1.0}.get(alpha, bumpy.get(alpha, 1.0))))
    assert plans[0].name == f"alpha {GRID[start + 2 * step]:g}"


def test_the_first_plan_is_better_than_off_and_close_to_the_best_global_alpha():
    """In the numpy framework; the errors of so small a model have several small valleys over the alphas."""
    adaptor = NumpyAdaptor()
    model, space, size = prepared(adaptor)
    best = plan_smoothing(adaptor, model, space, AUTO, size)[0]

    def error(alpha):
        alphas = dict.fromkeys((unit.name for unit in space.units), alpha)
        return output_error(adaptor, space.tune_cfg(space.default(size, alphas)), model)

    assert best.output_error < error(None) / 2
    assert best.output_error <= 1.25 * min(map(error, GRID))


def test_without_outputs_the_layer_wise_plan_comes_first():
    class WithoutOutputs(NumpyAdaptor):
        def reference_outputs(self):
            return None

    plans = plans_of(WithoutOutputs())
    assert [plan.name for plan in plans][::2] == ["layer-wise", "off"]
    assert {plan.output_error for plan in plans} == {None}


def test_groups_that_time_cuts_from_the_search_get_the_initial_alpha():
    adaptor = Scripted(valley(0.5))
    nothing = plans_of(adaptor, expired=lambda: True)
    assert [plan.name for plan in nothing] == ["alpha 0.5", "off"]
    assert not adaptor.asked
    clock = iter([False, True, True, True, True, True, True])
    partly = plans_of(adaptor, expired=lambda: next(clock))
    assert partly[0].name == "layer-wise"
    assert len(partly[0].alphas) == len(nothing[0].alphas)
    assert list(partly[0].alphas.values())[1:] == [0.5] * (len(nothing[0].alphas) - 1)


class Blocks(Scripted):
    def blocks(self):
        return {"block": [layer.name for layer in self._model.layers]}

    def block_reference(self, block):
        return self.reference_outputs()

    def run_block(self, block, candidate):
        return self.run(candidate)


BLOCKWISE = AUTO.model_copy(
    update={"auto_alpha_args": AUTO.auto_alpha_args.model_copy(update={"enable_blockwise_loss": True})}
)


def test_blocks_that_time_cut_from_the_search_are_not_said_to_be_missing(caplog):
    def plans(adaptor, **limits):
        model, space, size = prepared(adaptor)
        return plan_smoothing(adaptor, model, space, BLOCKWISE, size, **limits)

    plans(Blocks(valley(0.5)), expired=lambda: True)
    assert not caplog.records
    assert "block-wise" in {plan.name for plan in plans(Blocks(valley(0.5)))}
    plans(Scripted(valley(0.5)))
    assert [record.message for record in caplog.records] == [
        "enable_blockwise_loss has no effect: the model has no repeated blocks"
    ]


class Failing(Blocks):
    """Candidates whose error the test gives as None fail when they run."""

    def run(self, candidate):
        if candidate is None:
            raise RuntimeError("could not create a primitive descriptor")
        return super().run(candidate)


def test_a_candidate_that_fails_is_infinitely_far_and_not_the_end(caplog):
    adaptor = Failing(lambda alpha: None if alpha in (SEVERAL, 0.3) else valley(0.2)(alpha))
    model, space, size = prepared(adaptor)
    plans = plan_smoothing(adaptor, model, space, AUTO, size)
    assert [plan.name for plan in plans] == ["alpha 0.2", "off", "layer-wise"]
    assert plans[-1].output_error == np.inf
    assert "RuntimeError: could not create a primitive descriptor; it counts as infinitely far" in caplog.text
    blocks = plan_smoothing(adaptor, model, space, BLOCKWISE, size)
    assert {"block-wise"} < {plan.name for plan in blocks}


def test_where_every_candidate_fails_there_is_no_plan():
    with pytest.raises(QuantizationError, match=r"cannot be built or run: RuntimeError: could not create"):
        plans_of(Failing(lambda alpha: None))


def test_arguments_for_a_model_that_cannot_be_smoothed_are_not_ignored_in_silence(caplog):
    class Convolutions(NumpyAdaptor):
        def input_groups(self, units, sampling_size):
            return ()

    adaptor = Convolutions()
    model, space, size = prepared(adaptor)

    def plan(**arguments):
        known = validate_arguments(strategies=["auto"], backends=["default"], **arguments)
        return plan_smoothing(adaptor, model, space, known.smoothing, size)

    assert plan() == plan(recipes={"smooth_quant": False}) == (OFF_PLAN,)
    assert not caplog.records
    for given in ({"alpha": 0.7}, {"alpha": [0.1, 0.5]}, {"auto_alpha_args": {"enable_blockwise_loss": True}}):
        (only,) = plan(smoothquant_args=given)
        assert "smoothquant_args has no effect" in only.note
        assert "smoothquant_args has no effect" in caplog.text


def test_steps_are_counted_for_the_progress_bar():
    steps = []
    adaptor = Scripted(valley(0.0))
    model, space, size = prepared(adaptor)
    plan_smoothing(adaptor, model, space, AUTO, size, advance=lambda: steps.append(1))
    assert len(adaptor.asked) + len(space.units) == len(steps) <= planned_steps(AUTO, space)
    assert planned_steps(None, space) is None


@pytest.mark.parametrize(("large", "scored"), [(10_000_000, 8), (10, 2)])
def test_in_large_models_fewer_output_channels_score_an_alpha(monkeypatch, large, scored):
    asked = []

    def recorded(*arguments, output_channels, **options):
        asked.append(output_channels)
        return search_alpha(*arguments, output_channels=output_channels, **options)

    monkeypatch.setattr(smoothing_plan, "search_alpha", recorded)
    monkeypatch.setattr(smoothing_plan, "SCORED_OUTPUT_CHANNELS", 8)
    monkeypatch.setattr(smoothing_plan, "SCORED_IN_LARGE_MODELS", 2)
    monkeypatch.setattr(smoothing_plan, "LARGE_MODEL", large)
    plans_of(Scripted(valley(0.5)))
    assert set(asked) == {scored}


def test_folds_show_an_alpha_that_fits_the_ranges_too_closely():
    """Each half of the data has its outliers in other channels: what fits one half's channels clips the other's."""
    generator = np.random.default_rng(0)
    halves = []
    for seed in range(2):
        rows = generator.normal(size=(64, 32)).astype(np.float32)
        rows[:, generator.permutation(32)[:8]] *= 30.0
        half = ActivationStatistics("x", rows=64, seed=seed)
        half.update(rows)
        halves.append(half)
    both = halves[0].copy()
    both.merge(halves[1])
    config = OpConfig(
        TensorConfig("int8", "sym", "per_channel", "minmax"),
        TensorConfig("uint8", "asym", "per_tensor", "minmax"),
        "static",
    )
    weight = generator.normal(size=(16, 32)).astype(np.float32)
    crossed = tuple(half.with_rows_of(other) for half, other in (halves, halves[::-1]))
    plain = search_alpha(InputGroup("x", ("x",), both, lambda: [weight], (config,)), GRID)
    folded = search_alpha(InputGroup("x", ("x",), both, lambda: [weight], (config,), folds=crossed), GRID)
    assert folded.losses[1.0] > 10 * plain.losses[1.0]
    assert folded.losses[folded.alpha] == min(folded.losses.values())
    assert folded.alpha < 1.0


@pytest.mark.parametrize(("least_gain", "smoothed"), [(1.0, True), (1e6, False)])
def test_a_group_is_smoothed_where_that_gains_enough(least_gain, smoothed):
    class Costly(Scripted):
        def input_groups(self, units, sampling_size):
            return [replace(group, least_gain=least_gain) for group in super().input_groups(units, sampling_size)]

    plans = {plan.name: plan.alphas for plan in plans_of(Costly(valley(0.5)))}
    assert any(alpha is not None for alpha in plans["layer-wise"].values()) is smoothed
    assert set(plans["alpha 0.5"].values()) == {0.5}


def test_the_result_says_that_arguments_had_no_effect():
    class Convolutions(NumpyAdaptor):
        def input_groups(self, units, sampling_size):
            return ()

    given = {"strategies": ["auto"], "backends": ["default"], "progress": False, "smoothquant_args": {"alpha": 0.7}}
    data = [np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)]
    tuned = tune(Convolutions(), random_model(), data, None, validate_arguments(**given))
    assert any("smoothquant_args has no effect" in note for note in tuned.result.notes)
