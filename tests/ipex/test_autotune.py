"""autotune(backend="ipex"), as a user of the extension calls it."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, DataError, ModelError
from inc_autotune.testing import Scores
from tests.ipex.extension import ipex
from tests.ipex.small_models import Pooled, Residual, ReturnsItsInput, bert, flattened, output, traced
from tests.torch.small_models import (
    FEATURES,
    CalledTwice,
    dtypes,
    error,
    id_batches,
    image_batches,
    outlier_mlp,
    padded,
    small_cnn,
    tune,
    vectors,
)

tune_ipex = partial(tune, backend="ipex")
FP32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
SMOOTHED = {"smoothquant_args": {"alpha": 0.5}}


def sentences() -> list[dict[str, torch.Tensor]]:
    return [padded(ids) for ids in id_batches()]


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "linears": (outlier_mlp, vectors, SMOOTHED),
    "convolutions": (small_cnn, image_batches, {}),
    "pooling": (lambda: Pooled().eval(), image_batches, {}),
    "pooling before a reshape": (flattened, image_batches, {}),
    "residual": (lambda: Residual().eval(), vectors, SMOOTHED),
    "called twice": (lambda: CalledTwice().eval(), vectors, SMOOTHED),
    "keyword inputs": (bert, sentences, SMOOTHED),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory to be left empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quantized_inputs(tuned: Any, folder: Path) -> dict[str, int]:
    """How many inputs each operator rounds, by its name or place."""
    tuned.save_qconf_summary(str(folder / "summary.json"))
    layers = json.loads((folder / "summary.json").read_text()).values()
    return {
        f"{entry['fqn']}:{index}": sum(
            each.get("force_dtype") == "torch.quint8" for each in entry["input_tensor_infos"]
        )
        for layer in layers
        for index, entry in layer["q_op_infos"].items()
    }


@pytest.mark.parametrize("case", CASES)
def test_both_converts_and_the_trace_of_either_agree(case, folder):
    make_model, make_data, options = CASES[case]
    model, data = make_model(), make_data()
    before, reference = copy.deepcopy(model.state_dict()), output(model, data[0])
    tuned = tune_ipex(model, data, **options)
    ours, theirs = torch_ext.convert(tuned), ipex.convert(tuned)
    result = output(ours, data[0])
    assert 0 < error(result, reference) < 0.01
    assert torch.equal(output(theirs, data[0]), result)
    assert error(output(traced(theirs, data[0]), data[0]), result) < 1e-3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(output(model, data[0]), reference)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_a_saved_summary_loads_into_the_users_own_prepared_model(case, tmp_path):
    make_model, make_data, options = CASES[case]
    data = make_data()
    tuned: Any = tune_ipex(make_model(), data, **options)
    tuned.save_qconf_summary(qconf_summary=str(tmp_path / "tuned.json"))
    inputs = {"example_kwarg_inputs": data[0]} if isinstance(data[0], dict) else {"example_inputs": data[0]}
    fresh = ipex.prepare(make_model(), ipex.get_smooth_quant_qconfig_mapping(), **inputs)
    fresh.load_qconf_summary(qconf_summary=str(tmp_path / "tuned.json"))
    assert torch.equal(output(ipex.convert(fresh), data[0]), output(torch_ext.convert(tuned), data[0]))


def test_smoothing_is_what_keeps_outliers_accurate():
    model, data = outlier_mlp(), vectors()
    reference = output(model, data[0])
    plain, smoothed = (
        error(output(torch_ext.convert(tune_ipex(model, data, **options)), data[0]), reference)
        for options in ({}, SMOOTHED)
    )
    assert smoothed < plain / 20


def test_running_the_tuned_model_rounds_nothing_and_changes_no_range():
    model, data = outlier_mlp(), vectors()
    tuned = tune_ipex(model, data, **SMOOTHED)
    expected = output(torch_ext.convert(tuned), data[0])
    assert torch.equal(output(tuned, 100 * data[0]), output(model, 100 * data[0]))
    assert torch.equal(output(ipex.convert(tuned), data[0]), expected)


def test_layer_wise_alphas_differ():
    auto = {"alpha": "auto", "auto_alpha_args": {"alpha_min": 0.1, "alpha_max": 0.9, "alpha_step": 0.4}}
    tuned = tune_ipex(bert(), sentences(), smoothquant_args=auto)
    plans = dict(tuned.tuning_result.smoothing)
    assert "layer-wise" in plans
    assert all(0.1 <= alpha <= 0.9 for alpha in tuned.tuning_result.alphas.values())


def test_alphas_are_searched_block_by_block():
    auto = {"alpha": "auto", "auto_alpha_args": {"alpha_step": 0.5, "enable_blockwise_loss": True}}
    model = bert()
    model.encoder.layer.append(copy.deepcopy(model.encoder.layer[0]))
    tuned = tune_ipex(model, sentences(), smoothquant_args=auto)
    assert any("block" in name for name, _ in tuned.tuning_result.smoothing)


def test_each_alpha_of_a_list_makes_another_model():
    scores = Scores(1.0, 0.1, 0.2, 0.3, 0.3)
    tune_ipex(outlier_mlp(), vectors(), scores, smoothquant_args={"alpha": [0.2, 0.8]}, max_trials=2)
    first, second = (output(model, vectors()[0]) for model in scores.models[1:3])
    assert not torch.equal(first, second)


def test_the_most_harmful_units_fall_back_until_the_goal_is_met(folder):
    scores = Scores(1.0, 0.5, 1.0)
    tuned = tune_ipex(bert(), sentences(), scores)
    result = tuned.tuning_result
    assert result.met
    assert [trial.met for trial in result.trials] == [False, True]
    kinds = list(dtypes(tuned).values())
    assert kinds.count("int8") + kinds.count("uint8") in (7, 8)  # of 7 Linears and 2 products; a unit may be a group
    assert "traced and frozen forward pass" in str(result)
    assert not list(folder.iterdir())


def test_products_of_matrices_are_operators_with_rules_of_their_own(tmp_path, caplog):
    tuned = tune_ipex(bert(), sentences(), op_type_dict={"matmul": FP32})
    assert "matches no operator" not in caplog.text
    found = dtypes(tuned)
    products = {name: dtype for name, dtype in found.items() if "matmul" in name}
    assert list(products.values()) == ["fp32", "fp32"]
    assert found["encoder.layer.0.attention.self.query"] == "int8"
    inputs = quantized_inputs(tuned, tmp_path)
    assert inputs["encoder.layer.0.attention.self.query:0"] == 1
    assert {inputs[f"encoder.layer.0.attention.self:{index}"] for index in (3, 5)} == {0}


@pytest.mark.parametrize(
    ("rules", "add"),
    [({}, 1), ({"op_type_dict": {"add": FP32}}, 0), ({"op_name_dict": {"second": FP32}}, 0)],
)
def test_additions_can_be_ruled_out_and_follow_their_convolution(rules, add, tmp_path):
    tuned = tune_ipex(Pooled().eval(), image_batches(), **rules)
    inputs = quantized_inputs(tuned, tmp_path)
    [found] = [count for name, count in inputs.items() if name.startswith(":") and dtypes(tuned).get(f"add_{name[1:]}")]
    assert found == add


def test_linears_that_read_one_tensor_may_differ():
    model, data = outlier_mlp(), vectors()
    for rules in ({"key": FP32}, {"key": {"activation": {"scheme": ["sym"]}}}):
        tuned = tune_ipex(model, data, op_name_dict=rules, **SMOOTHED)
        assert error(output(torch_ext.convert(tuned), data[0]), output(model, data[0])) < 1e-3


def test_a_tensor_that_its_module_returns_can_still_be_saved(tmp_path):
    model, data = ReturnsItsInput().eval(), vectors()
    tuned = tune_ipex(model, data, **SMOOTHED)
    assert set(tuned.tuning_result.alphas) == {"head"}
    assert quantized_inputs(tuned, tmp_path)["part.read:0"] == 1


def test_a_calibration_function_and_a_generator_do_too():
    model, data = outlier_mlp(), vectors()
    seen = []

    def calib_func(model):
        for batch in data:
            seen.append(model(batch))

    by_function = tune_ipex(model, calib_func=calib_func, **SMOOTHED)
    by_generator = tune_ipex(model, iter(data), **SMOOTHED)
    assert len(seen) == len(data)
    results = [output(torch_ext.convert(tuned), data[0]) for tuned in (by_function, by_generator)]
    assert torch.equal(*results)


def test_a_model_that_is_prepared_already_is_tuned_from_its_fp32_form(tmp_path):
    """As in the programs of the extension up to 2.1."""
    model, data = small_cnn(), image_batches()
    calibrated = ipex.prepare(copy.deepcopy(model), ipex.default_static_qconfig, example_inputs=data[0])
    output(calibrated, data[0])
    calls = [
        tune_ipex(calibrated, data),
        torch_ext.autotune(
            prepared_model=calibrated,
            calib_dataloader=data,
            backend="ipex",
            recipes={"smooth_quant": False},
            progress=False,
        ),
        tune_ipex(model, data),
    ]
    first, second, third = (output(torch_ext.convert(tuned), data[0]) for tuned in calls)
    assert torch.equal(first, second)
    assert error(first, third) < 1e-6
    assert calibrated.state_dict().keys() != model.state_dict().keys()


def test_a_recipe_is_applied_to_the_fp32_form_of_a_prepared_model():
    """Of one with a Dropout, which the extension replaces."""
    model, data = outlier_mlp(), vectors()
    recipe = tune(model, data).tuning_result.recipe
    prepared = ipex.prepare(copy.deepcopy(model), ipex.default_static_qconfig, example_inputs=data[0])
    results = [output(torch_ext.convert(torch_ext.apply_recipe(each, recipe)), data[0]) for each in (model, prepared)]
    assert torch.equal(*results)


def test_a_converted_model_is_neither_tuned_nor_converted_again():
    converted = torch_ext.convert(tune_ipex(outlier_mlp(), vectors()))
    with pytest.raises(ModelError, match=r"already quantized, by ipex\.quantization\.convert"):
        tune_ipex(converted, vectors())
    with pytest.raises(ArgumentError, match="what autotune"):
        torch_ext.convert(converted)


def test_a_copy_that_lost_what_the_extension_keeps_is_not_converted():
    tuned = tune_ipex(outlier_mlp(), vectors())
    with pytest.raises(ArgumentError, match="Pass the original"):
        torch_ext.convert(copy.deepcopy(tuned))


def test_a_single_operator_is_no_model():
    """The extension knows operators by the module that calls them."""
    with pytest.raises(ModelError, match=r"Pass torch\.nn\.Sequential\(model\)"):
        tune_ipex(torch.nn.Linear(FEATURES, 4).eval(), vectors(), op_type_dict={"Linear": FP32})


class Shifted(torch.nn.Module):
    """Adds what it is given, if anything."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(FEATURES, 4)

    def forward(self, x: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        return self.layer(x if shift is None else x + shift)


def test_batches_that_take_another_path_are_an_error_of_the_data():
    shifted = [{"x": batch, "shift": torch.ones(FEATURES)} for batch in vectors()]
    with pytest.raises(DataError, match="runs the same operators"):
        tune_ipex(Shifted().eval(), [*shifted, {"x": vectors()[0], "shift": None}])
    with pytest.raises(DataError, match="the feature shapes of the first one"):
        tune_ipex(Shifted().eval(), [*shifted, {"x": vectors()[0], "shift": torch.ones(FEATURES + 1)}])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"device": "xpu"}, "no XPU on this machine"),
        ({"device": "cuda"}, "Allowed: 'cpu', 'xpu'"),
        ({"approach": "dynamic"}, "quantizes statically"),
        ({"objective": "footprint"}, "cannot measure it"),
        ({"strategy": "hawq_v2"}, "needs gradients, which IpexAdaptor does not offer"),
    ],
)
def test_what_it_cannot_do_is_one_clear_error(arguments, words):
    if torch.xpu.is_available() and arguments.get("device") == "xpu":
        pytest.skip("there is an XPU")
    with pytest.raises(ArgumentError, match=words):
        tune_ipex(outlier_mlp(), vectors(), **arguments)


def test_its_recipe_makes_the_same_decisions_on_stock_pytorch():
    model, data = outlier_mlp(), vectors()
    tuned = tune_ipex(model, data, **SMOOTHED)
    by_extension = output(torch_ext.convert(tuned), data[0])
    by_stock = output(torch_ext.convert(torch_ext.apply_recipe(model, tuned.tuning_result.recipe)), data[0])
    # The extension's symmetric grid ends half a step later, so weights differ by less than their rounding does. How
    # much that is depends on the bits that the processor multiplies without saturating.
    assert error(by_stock, by_extension) < error(by_stock, output(model, data[0])) / 2


def test_saving_it_as_a_stock_model_is_refused_with_the_way_to_go(tmp_path):
    with pytest.raises(ArgumentError, match="save_qconf_summary"):
        torch_ext.save(tune_ipex(outlier_mlp(), vectors()), tmp_path)
