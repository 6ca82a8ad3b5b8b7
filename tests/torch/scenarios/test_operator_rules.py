"""What the user may ask for: operator rules, capabilities of their own, approaches, calibration algorithms."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, CapabilityError, ModelError
from inc_autotune.testing import Scores
from inc_autotune.torch_ext.target.kernels import has_bf16
from tests.torch.small_models import (
    OutlierMLP,
    PlainCNN,
    Text,
    dtypes,
    error,
    id_batches,
    image_batches,
    outlier_mlp,
    tune,
    vectors,
)

FP32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}

# The example of the documentation, for any number of bits.
INT4_YAML = """
int{bits}:
  static:
    Conv2d:
      weight: {{dtype: [int{bits}], scheme: [sym], granularity: [per_channel], algorithm: [minmax]}}
      activation: {{dtype: [uint{bits}], scheme: [sym], granularity: [per_tensor], algorithm: [minmax]}}
"""


def mlp(**arguments) -> nn.Module:
    return tune(outlier_mlp(), vectors(), **arguments)


def config(tuned: nn.Module, name: str):
    return tuned.tuning_result.recipe.operators[name].config


@pytest.mark.parametrize(
    ("rules", "floats"),
    [
        ({"op_type_dict": {"LayerNorm": FP32}}, set()),
        ({"op_name_dict": {"head": FP32}}, {"head"}),
        ({"op_name_dict": {"qu.*|key": {"weight": {"dtype": "fp32"}}}}, {"query", "key"}),
        ({"op_name_dict": {"hea": FP32}}, set()),
        ({"op_type_dict": {"Lin.*": FP32}, "op_name_dict": {"head": {"weight": {"dtype": ["int8"]}}}}, None),
        ({"op_name_dict": {"query": FP32}}, {"query"}),
    ],
    ids=["not quantized anyway", "name", "regular expression", "full match", "name wins over type", "one of a group"],
)
def test_operators_are_excluded(rules, floats):
    tuned = mlp(**rules)
    names = {"query", "key", "hidden", "head"}
    floats = names - {"head"} if floats is None else floats
    assert {name for name, dtype in dtypes(tuned).items() if dtype == "fp32"} == floats
    assert tuned.tuning_result.fallbacks.keys() == floats
    assert all("op_name_dict" in reason for reason in tuned.tuning_result.fallbacks.values())
    quantized = torch_ext.convert(tuned)
    assert {name for name in names if type(quantized.get_submodule(name)) is nn.Linear} == floats


@pytest.mark.parametrize("rules", [{"op_type_dict": {"Conv2d": FP32}}, {"op_name_dict": {"heads": FP32}}])
def test_a_pattern_without_a_match_is_told_once(rules, caplog):
    with caplog.at_level(logging.WARNING, logger="inc_autotune"):
        mlp(**rules)
    (record,) = caplog.records
    ((argument, patterns),) = rules.items()
    assert f"{argument}['{next(iter(patterns))}'] matches no operator" in record.getMessage()
    assert argument == "op_type_dict" or "Did you mean 'head'?" in record.getMessage()


@pytest.mark.parametrize(("pattern", "hint"), [("linear", "'Linear'"), ("Conv2", "'Conv[123]d'"), ("OutlierMLp", "")])
def test_a_type_that_there_is_not_is_an_error_before_the_model_runs(pattern, hint, monkeypatch):
    monkeypatch.setattr(OutlierMLP, "forward", lambda *_: pytest.fail("the model ran"))
    message = rf"op_type_dict\['{pattern}'\]: matches no operator type.* such as 'Linear'.*{hint and f' mean {hint}'}"
    with pytest.raises(ArgumentError, match=message):
        mlp(op_type_dict={"Linear": FP32, pattern: FP32})


def test_types_of_the_model_and_of_torch_are_known():
    assert mlp(op_type_dict={"OutlierMLP|Softmax": FP32, "LSTM": FP32}).tuning_result.fallbacks == {}


@pytest.mark.parametrize("scheme", ["sym", "asym"])
@pytest.mark.parametrize("algorithm", ["minmax", "kl", "percentile", "mse"])
def test_algorithms_and_schemes_of_activations(algorithm, scheme):
    model = PlainCNN().eval()
    rule = {"activation": {"algorithm": [algorithm], "scheme": [scheme]}}
    tuned = tune(model, image_batches(8, 16), op_type_dict={"Conv2d": rule})
    activation = config(tuned, "layers.2").activation
    assert (activation.algorithm, activation.scheme) == (algorithm, scheme)
    data = image_batches()[0]
    with torch.no_grad():
        assert error(torch_ext.convert(tuned)(data), model(data)) < (5e-2 if algorithm == "kl" else 1e-3)


def test_clipping_algorithms_cut_off_an_outlier():
    data = vectors(16, 800)
    data[3][5, 2] = 40.0
    ranges = {}
    for algorithm in ("minmax", "kl", "percentile", "mse"):
        rule = {"activation": {"algorithm": algorithm}}
        tuned = tune(nn.Linear(16, 8).eval(), data, op_type_dict={"Linear": rule}, sampling_sizes=[12800])
        ranges[algorithm] = tuned.tuning_result.recipe.operators[""].calibration["input_maximum"]
    assert ranges["minmax"] == 40.0
    assert ranges["kl"] < 10
    assert ranges["percentile"] < 10
    assert ranges["mse"] <= 40.0


def test_weights_by_mean_squared_error():
    tuned = mlp(op_type_dict={"Linear": {"weight": {"algorithm": ["mse"]}}})
    assert config(tuned, "head").weight.algorithm == "mse"


@pytest.mark.parametrize("approach", ["static", "dynamic"])
def test_approach(approach):
    tuned = mlp(approach=approach)
    assert {each.approach for each in tuned.tuning_result.operators} == {approach}
    data = vectors()[0]
    with torch.no_grad():
        assert error(torch_ext.convert(tuned)(data), tuned(data)) < 1e-6


def test_approach_by_rule():
    tuned = mlp(op_name_dict={"head": {"activation": {"quant_mode": ["dynamic"]}}})
    assert {each.name: each.approach for each in tuned.tuning_result.operators} == {
        "query": "static",
        "key": "static",
        "hidden": "static",
        "head": "dynamic",
    }


def test_dynamic_needs_no_calibration_data():
    model = outlier_mlp()
    tuned = tune(model, approach="dynamic", example_inputs=vectors()[0])
    with torch.no_grad():
        assert error(torch_ext.convert(tuned)(vectors()[1]), model(vectors()[1])) < 1e-2


def test_weight_only():
    tuned = tune(Text().eval(), id_batches(), approach="weight_only")
    assert dtypes(tuned) == {"table": "uint8", "head": "int8"}
    assert {each.approach for each in tuned.tuning_result.operators} == {"weight_only"}
    tuned = tune(Text().eval(), id_batches(), op_name_dict={"table": {"weight": {"dtype": ["uint8"]}}})
    assert dtypes(tuned) == {"table": "uint8", "head": "int8"}


def test_excluded_precisions():
    with pytest.raises(ModelError, match="excluded_precisions"):
        mlp(excluded_precisions=["int8"])
    assert set(dtypes(mlp(excluded_precisions=["bf16"])).values()) == {"int8"}


def test_bf16_where_the_processor_has_it():
    rules = {"op_name_dict": {"head": {"weight": {"dtype": ["bf16"]}}}, "excluded_precisions": []}
    if not has_bf16():
        with pytest.raises(CapabilityError, match="bf16"):
            mlp(**rules)
        return
    tuned = mlp(**rules)
    assert dtypes(tuned) == {"query": "int8", "key": "int8", "hidden": "int8", "head": "bf16"}
    data = vectors()[0]
    with torch.no_grad():
        quantized = torch_ext.convert(tuned)
        assert error(quantized(data), tuned(data)) < 1e-6
        traced = torch.jit.freeze(torch.jit.trace(quantized, data))
        assert torch.equal(traced(data), quantized(data))


# New data types


@pytest.fixture(scope="module")
def by_bits(tmp_path_factory):
    """Score and tuned model by number of bits; the score is the signal-to-noise ratio of the output."""
    model, data = PlainCNN().eval(), image_batches(8)
    with torch.no_grad():
        reference = model(data[0])

    def eval_func(quantized):
        with torch.no_grad():
            return (
                100.0 if quantized is model else -10 * float(torch.tensor(error(quantized(data[0]), reference)).log10())
            )

    found = {}
    for bits in range(1, 8):
        path = tmp_path_factory.mktemp("capability") / "my.yaml"
        path.write_text(INT4_YAML.format(bits=bits))
        rule = {"weight": {"dtype": [f"int{bits}"]}, "activation": {"dtype": [f"uint{bits}"]}}
        found[bits] = tune(
            model,
            data,
            eval_func,
            capability=str(path),
            op_type_dict={"Conv2d": rule},
            accuracy_criterion={"absolute": 999},
        )
    return data[0], found


def test_every_bit_width_is_better_than_the_one_below(by_bits):
    _, found = by_bits
    scores = [found[bits].tuning_result.score for bits in range(1, 8)]
    # With one or two bits hardly anything of the signal is left, so these two are not compared.
    assert max(scores[:2]) < 3 < scores[2]
    assert all(better > worse + 3 for worse, better in pairwise(scores[1:])), scores


@pytest.mark.parametrize("bits", range(1, 8))
def test_narrow_integers_are_simulated_and_say_so(by_bits, bits):
    inputs, found = by_bits
    tuned = found[bits]
    assert all(each.simulated and each.dtype == f"int{bits}" for each in tuned.tuning_result.operators)
    assert f"3 int{bits} simulated" in str(tuned.tuning_result)
    quantized = torch_ext.convert(tuned)
    with torch.no_grad():
        torch.testing.assert_close(quantized(inputs), tuned(inputs), rtol=1e-4, atol=1e-5)
        traced = torch.jit.freeze(torch.jit.trace(quantized, inputs))
        assert torch.equal(traced(inputs), quantized(inputs))
    weights = quantized.state_dict()["layers.0.integer_weight"]
    assert int(weights.min()) >= -(2 ** (bits - 1))
    assert int(weights.max()) <= 2 ** (bits - 1) - 1
    values = tuned.get_submodule("layers.2").fake_weight().detach()[0].unique()
    assert len(values) <= 2**bits


def test_without_a_rule_the_new_type_is_only_an_option(by_bits):
    capability = {
        "int4": {
            "static": {
                "Conv2d": {
                    "weight": {
                        "dtype": ["int4"],
                        "scheme": ["sym"],
                        "granularity": ["per_channel"],
                        "algorithm": ["minmax"],
                    },
                    "activation": {
                        "dtype": ["uint4"],
                        "scheme": ["sym"],
                        "granularity": ["per_tensor"],
                        "algorithm": ["minmax"],
                    },
                }
            }
        }
    }
    model = PlainCNN().eval()
    assert set(dtypes(tune(model, image_batches(), capability=capability)).values()) == {"int8"}
    rules = {"layers.2": {"weight": {"dtype": ["int4"]}, "activation": {"dtype": ["uint4"]}}}
    tuned = tune(model, image_batches(), capability=capability, op_name_dict=rules)
    assert list(dtypes(tuned).values()) == ["int8", "int4", "int8"]


def test_int4_linear_falls_back_like_int8():
    capability = {
        "int4": {
            "static": {
                "Linear": {
                    "weight": {
                        "dtype": ["int4"],
                        "scheme": ["sym"],
                        "granularity": ["per_channel"],
                        "algorithm": ["minmax"],
                    },
                    "activation": {
                        "dtype": ["uint8"],
                        "scheme": ["asym"],
                        "granularity": ["per_tensor"],
                        "algorithm": ["minmax"],
                    },
                }
            }
        }
    }
    rule = {"Linear": {"weight": {"dtype": ["int4"]}}}
    tuned = tune(
        outlier_mlp(), vectors(), Scores(1.0, 0.5, 1.0), capability=capability, op_type_dict=rule, approach="static"
    )
    assert sorted(set(dtypes(tuned).values())) == ["fp32", "int4"]
    assert len(tuned.tuning_result.fallbacks) in (1, 2)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"op_type_dict": {"Linear": {"weight": {"dtype": ["int5"]}}}},
            r"op_type_dict\['Linear'\]: weight dtype 'int5'",
        ),
        (
            {"op_name_dict": {"head": {"weight": {"granularity": "per_tensor"}}}},
            r"op_name_dict\['head'\]: weight granul",
        ),
        ({"op_name_dict": {"head": {"activation": {"dtype": "int8"}}}}, r"activation dtype 'int8'.*offers: static"),
        ({"op_name_dict": {"head": {"activation": {"algorithm": "kl"}}}, "approach": "dynamic"}, "kl"),
    ],
)
def test_what_the_capability_lacks_is_an_error_before_the_model_runs(rules, message, monkeypatch):
    monkeypatch.setattr(OutlierMLP, "forward", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(CapabilityError, match=f"(?s){message}.*Change the rule, or add the option with capability="):
        mlp(**rules)
