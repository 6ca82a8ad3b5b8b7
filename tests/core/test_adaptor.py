"""What an adaptor is asked for: each optional method alone, and registered adaptors by name."""

import sys

import numpy as np
import pytest

from inc_autotune.core.adaptor import Adaptor, UnitSpeed, registered_adaptor
from inc_autotune.core.analysis.block_search import SupportsBlocks
from inc_autotune.core.analysis.gain import SupportsFootprint, SupportsSize, SupportsThreads, SupportsTiming
from inc_autotune.core.analysis.output_error import SupportsComparison
from inc_autotune.core.analysis.sensitivity import SupportsGradients, SupportsHalves, UnitHarm, probe_halves
from inc_autotune.core.analysis.smoothing_plan import SupportsIntegerProduct, SupportsSmoothing
from inc_autotune.core.analysis.unit_speed import SupportsUnitSpeeds
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.search.options import offered_options
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.space.units import build_space
from inc_autotune.core.tuner import tune
from inc_autotune.testing import MinimalNumpyAdaptor, NumpyAdaptor, random_model

OPTIONAL = (
    SupportsSmoothing,
    SupportsIntegerProduct,
    SupportsComparison,
    SupportsHalves,
    SupportsGradients,
    SupportsBlocks,
    SupportsTiming,
    SupportsThreads,
    SupportsSize,
    SupportsFootprint,
    SupportsUnitSpeeds,
)


def data():
    return [np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)]


def run(adaptor, scores=(1.0,), **given):
    returned = iter(scores)
    arguments = validate_arguments(strategies=STRATEGIES, backends=["default"], progress=False, **given)
    return tune(adaptor, random_model(), data(), lambda model: next(returned), arguments).result


class Comparing(MinimalNumpyAdaptor):
    """Reads the data at each call, so nothing is held out in truth; the first batch stands for it."""

    def reference_outputs(self):
        return [random_model()(data()[0])]

    def run(self, candidate):
        return [candidate(data()[0])]

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        return super().quantize(tune_cfg, model, dataloader or data(), q_func)


def test_two_methods_are_enough():
    assert Adaptor.__abstractmethods__ == {"query_fw_capability", "quantize"}
    assert not [each for each in OPTIONAL if isinstance(MinimalNumpyAdaptor(), each)]
    result = run(MinimalNumpyAdaptor(), [1.0, 0.5, 1.0])
    assert result.met
    assert (result.speedup, result.size_ratio, result.gain) == (None, None, None)


def test_measure_alone_gives_a_speedup():
    class Timing(MinimalNumpyAdaptor):
        def measure(self, models):
            return [3.0, 1.0]

    assert run(Timing(), [1.0, 1.0]).speedup == 3.0


def test_model_size_alone_gives_the_ratio_of_sizes():
    class Sizing(MinimalNumpyAdaptor):
        def model_size(self, model):
            return 400 if all(layer.transform.__name__ == "identity" for layer in model.layers) else 100

    assert run(Sizing(), [1.0, 1.0]).size_ratio == 4.0
    assert run(Sizing(), [1.0, 1.0], objective="modelsize").gain == 4.0


def test_footprint_alone_serves_its_objective():
    class Counting(MinimalNumpyAdaptor):
        def footprint(self, models):
            return [300, 200]

    assert run(Counting(), [1.0, 1.0], objective="footprint").gain == 1.5


def test_unit_speeds_alone_keep_slow_units_in_fp32():
    class Slow(MinimalNumpyAdaptor):
        def unit_speeds(self, units, expired=lambda: False):
            return {units[0].name: UnitSpeed(0.5, "alone")}

    (reason,) = run(Slow(), [1.0, 1.0]).fallbacks.values()
    assert "not faster here: 0.50x" in reason


def test_input_groups_alone_are_smoothed():
    class Smoothing(MinimalNumpyAdaptor):
        def __init__(self):
            super().__init__()
            self.full = NumpyAdaptor()

        def input_groups(self, units, sampling_size):
            self.full.calibrate(random_model(), data(), (sampling_size,))
            return self.full.input_groups(units, 32)

    assert set(run(Smoothing(), [1.0, 1.0], smoothquant_args={"alpha": 0.5}).alphas.values()) == {0.5}


def test_outputs_alone_rank_units_by_what_is_measured():
    (reason,) = run(Comparing(), [1.0, 0.5, 1.0]).fallbacks.values()
    assert "it costs an output error of" in reason
    assert "from its activation" not in reason


def test_halves_are_probed_where_outputs_are_compared():
    class Halving(Comparing):
        def half_quantized(self, tune_cfg, model, half):
            return self.quantize(tune_cfg, model, None) if half == "activation" else model

    class WithoutOutputs(MinimalNumpyAdaptor):
        half_quantized = Halving.half_quantized

    def probed(adaptor):
        model = random_model()
        space = build_space(offered_options(adaptor, model))
        return probe_halves(adaptor, model, space, space.default(32), UnitHarm(space.units[0].name, 1.0))

    assert probed(Halving()).activation_share == 1.0
    assert probed(WithoutOutputs()).activation_share is None


def test_gradients_alone_order_the_fallbacks():
    class Gradients(MinimalNumpyAdaptor):
        def gradient_harms(self, units, tune_cfg, expired=lambda: False):
            return {unit.name: float(unit.name == "dense2") for unit in units}

    assert list(run(Gradients(), [1.0, 0.5, 1.0], strategy="hawq_v2").fallbacks) == ["dense2"]
    with pytest.raises(ArgumentError, match="needs gradients, which MinimalNumpyAdaptor does not offer"):
        run(MinimalNumpyAdaptor(), strategy="hawq_v2")


@pytest.mark.parametrize(("fp32_seconds", "told"), [(3.0, 1.5), (9.0, 2.0)])
def test_one_thread_decides_and_no_more_than_the_speed_in_several_is_told(fp32_seconds, told):
    class Timing(MinimalNumpyAdaptor):
        def measure(self, models):
            return [2.0, 1.0]

        def measure_threads(self, models):
            return [fp32_seconds, 2.0]

    result = run(Timing(), [1.0, 1.0], tuning_time=60)
    assert (result.speedup, result.gain) == (told, told)
    assert {trial.gain for trial in result.trials} == {2.0}


def test_what_returns_nothing_is_left_out():
    """An adaptor may have a method without an answer for this model."""

    class Silent(MinimalNumpyAdaptor):
        def nothing(self, *given):
            return None

        def empty(self, *given):
            return {}

        measure = model_size = footprint = reference_outputs = half_quantized = gradient_harms = run = nothing
        integer_product = measure_threads = nothing
        input_groups = unit_speeds = blocks = block_reference = run_block = empty

    assert all(isinstance(Silent(), each) for each in OPTIONAL)
    silent, minimal = run(Silent(), [1.0, 0.5, 1.0]), run(MinimalNumpyAdaptor(), [1.0, 0.5, 1.0])
    assert silent.fallbacks == minimal.fallbacks
    assert (silent.speedup, silent.size_ratio, silent.gain, silent.smoothing) == (None, None, None, minimal.smoothing)
    assert run(Silent(), [1.0, 0.5, 1.0], strategy="hawq_v2").met


def test_parameters_may_have_names_of_their_own():
    class Renamed(MinimalNumpyAdaptor):
        def quantize(self, cfg, net, loader, train=None):
            return super().quantize(cfg, net, loader, train)

    assert run(Renamed(), [1.0, 1.0]).met


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """An installed package that registers an adaptor, and one that is none."""
    metadata = tmp_path / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[inc_autotune.adaptors]\nmine = my_package_of_adaptors:Mine\nwrong = my_package_of_adaptors:Wrong\n"
    )
    (tmp_path / "my_package_of_adaptors.py").write_text(
        "from inc_autotune.testing import NumpyAdaptor\nclass Mine(NumpyAdaptor):\n    pass\nclass Wrong:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_package_of_adaptors", None)


@pytest.mark.usefixtures("registered")
def test_a_registered_adaptor_is_tuned_with_by_its_name():
    assert registered_adaptor("mine").__name__ == "Mine"
    assert run("mine", [1.0, 1.0]).met


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mime", r"adaptor='mime': no such adaptor\. Registered: \['mine', 'wrong'\].*Did you mean 'mine'\?"),
        ("wrong", "adaptor='wrong': my_package_of_adaptors:Wrong is not a subclass of Adaptor"),
    ],
)
def test_a_name_without_an_adaptor_is_an_error(name, message):
    with pytest.raises(ArgumentError, match=message):
        run(name)


def test_an_unknown_registered_adaptor_is_an_error():
    with pytest.raises(ArgumentError, match="no such adaptor"):
        registered_adaptor("nothing")
