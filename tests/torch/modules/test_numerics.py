"""Prepared and quantized operators compute the same numbers, in every form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.op_config import FP32
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.modules import convert_module, prepare_module, simulation_reason
from inc_autotune.torch_ext.modules.weight_only import WeightOnlyLinear
from inc_autotune.torch_ext.target.kernels import has_fused_linear
from tests.torch.module_examples import EXAMPLES, Example, calibrated, convolution, integer_config, linear

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


def decibels(example: Example, reduce_range: bool = False) -> float:
    prepared = example.prepared(reduce_range)
    return signal_to_noise_db(prepared(example.x), convert_module(prepared)(example.x))


@pytest.mark.parametrize("name", EXAMPLES)
def test_quantized_equals_prepared(name):
    example = EXAMPLES[name]()
    # A product with a float activation is computed in bfloat16.
    assert decibels(example) >= (45 if isinstance(example.quantized(), WeightOnlyLinear) else 90)


@pytest.mark.parametrize("name", EXAMPLES)
def test_prepared_is_close_to_fp32(name):
    example = EXAMPLES[name]()
    expected = 5 if "int4" in name else 33
    assert signal_to_noise_db(example.module(example.x), example.prepared()(example.x)) > expected


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith(("linear", "Conv1D"))])
def test_every_form_of_a_linear_agrees(name):
    example = EXAMPLES[name]()
    quantized = example.quantized()
    if not hasattr(quantized, "packed") or not hasattr(quantized, "_integer"):
        pytest.skip("simulated or bf16: one form only")
    expected = example.prepared()(example.x)
    if example.config.activation.is_per_token:
        quantized.keep_packed(None)
        assert signal_to_noise_db(expected, quantized(example.x)) >= 70
        return
    # Smoothing is rounded once instead of twice here, which moves a few values across a rounding boundary.
    assert signal_to_noise_db(expected, quantized._integer(example.x)) >= 70
    assert signal_to_noise_db(expected, quantized._dequantized(example.x)) >= 70


def test_integer_form_is_exact_where_no_value_lies_on_a_boundary():
    example = linear(integer_config(), smoothed=True)
    quantized = example.quantized()
    quantized.keep_packed(None)
    assert signal_to_noise_db(example.prepared()(example.x), quantized(example.x)) >= 120


@pytest.mark.skipif(not has_fused_linear(), reason="FBGEMM's fused Linear is not available")
@pytest.mark.parametrize("scale", [1e-9, 1e-4, 0.0, 1e4])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
def test_dynamic_range_follows_the_kernel(scale, shift):
    example = linear(integer_config(approach="dynamic"))
    x = (example.x + 2 * shift) * scale
    prepared = example.prepared()
    quantized = convert_module(prepared)
    expected, actual = prepared(x), quantized(x)
    assert signal_to_noise_db(expected, actual) >= 90
    quantized.keep_packed(None)
    assert signal_to_noise_db(expected, quantized(x)) >= 70


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("approach", ["static", "dynamic"])
@pytest.mark.parametrize("shape", [(96,), (1, 96), (0, 96), (2, 0, 96), (2, 3, 4, 96)])
def test_linear_takes_any_leading_shape(shape, approach, packed):
    example = linear(integer_config(approach=approach), smoothed=True)
    quantized = example.quantized()
    if not packed:
        quantized.keep_packed(None)
    x = torch.randn(shape)
    y = quantized(x)
    assert y.shape == (*shape[:-1], 64)
    if x.numel():
        assert signal_to_noise_db(example.prepared()(x), y) >= 90


@pytest.mark.parametrize("packed", [True, False])
def test_linear_takes_strided_input(packed):
    example = linear(integer_config())
    quantized = example.quantized()
    if not packed:
        quantized.keep_packed(None)
    x = torch.randn(96, 5).t()
    assert torch.equal(quantized(x), quantized(x.contiguous()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear", "linear dynamic", "linear int4", "linear bf16", "Conv2d", "Conv1D"])
def test_output_has_the_dtype_of_the_input(name, dtype):
    example = EXAMPLES[name]()
    for module in (example.prepared(), example.quantized()):
        y = module(example.x.to(dtype))
        assert y.dtype == dtype
        assert signal_to_noise_db(module(example.x), y.float()) > (12 if "int4" in name else 30)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": 4},
        {"stride": 2, "dilation": 2, "padding": 1},
        {"padding": "same"},
        {"padding": "same", "kernel_size": 4},
        {"padding": "valid", "bias": False},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 2, "padding_mode": "circular"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_convolution_geometry(dimensions, arguments):
    example = convolution(dimensions, **arguments)
    prepared, quantized = example.prepared(), example.quantized()
    expected, actual = prepared(example.x), quantized(example.x)
    assert not quantized.simulated
    # One rounding of the output in 100,000 may fall to the other side.
    assert signal_to_noise_db(expected, actual) >= 60
    assert torch.equal(quantized(example.x[0]), actual[0])
    assert quantized(example.x[:0]).shape == (0, *actual.shape[1:])


def test_depthwise_convolution_does_not_saturate():
    torch.manual_seed(0)
    module = nn.Conv2d(16, 16, 3, groups=16)
    nn.init.constant_(module.weight, 1.0)
    example = calibrated(module, integer_config(), torch.rand(1, 16, 8, 8))
    assert signal_to_noise_db(example.prepared()(example.x), example.quantized()(example.x)) >= 60


def test_output_range_from_zero_makes_a_relu_free():
    example = convolution(2)
    maximum = example.calibration.output_maximum
    ranges = (example.calibration.input_minimum, example.calibration.input_maximum)
    calibration = OperatorCalibration(*ranges, None, 0.0, maximum)
    y = convert_module(prepare_module(example.module, example.config, calibration))(example.x)
    assert y.min() == 0
    assert signal_to_noise_db(torch.relu(example.module(example.x)), y) > 33


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("build", [linear, lambda config: convolution(2, config)], ids=["Linear", "Conv2d"])
def test_every_bit_width_is_simulated(bits, build):
    example = build(integer_config(f"int{bits}", f"uint{bits}"))
    quantized = example.quantized()
    y = quantized(example.x)
    assert quantized.simulated
    assert len(quantized.integer_weight.unique()) <= 2**bits
    assert torch.equal(y, example.prepared()(example.x))
    assert torch.isfinite(y).all()


def test_accuracy_grows_with_the_bits():
    noise = []
    for bits in range(2, 9):
        example = linear(integer_config(f"int{bits}", f"uint{bits}"))
        noise.append(signal_to_noise_db(example.module(example.x), example.quantized()(example.x)))
    assert noise == sorted(noise)


@pytest.mark.parametrize("name", ["linear", "linear smoothed", "linear dynamic", "Conv1D", "Conv2d"])
def test_reduced_range_keeps_weights_within_7_bits(name):
    example = EXAMPLES[name]()
    weight = example.quantized(reduce_range=True).integer_weight
    assert weight.min() >= -64
    assert weight.max() <= 63
    assert decibels(example, reduce_range=True) >= 90


def test_reduced_range_leaves_simulated_weights_alone():
    example = linear(integer_config("int4", "uint4"))
    assert torch.equal(example.quantized(reduce_range=True).integer_weight, example.quantized().integer_weight)


@pytest.mark.parametrize("approach", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["weight", "input", "everything"])
def test_dead_channels_bring_no_nan(name, approach):
    torch.manual_seed(0)
    module, x = nn.Linear(32, 16), torch.randn(5, 32)
    if name != "input":
        module.weight[3] = 0
    if name != "weight":
        x[:, 7] = 0
    if name == "everything":
        module.weight.zero_()
        x.zero_()
    example = calibrated(module, integer_config(approach=approach), x)
    for each in (example.prepared(), example.quantized()):
        y = each(x)
        assert torch.isfinite(y).all()
        assert torch.allclose(y, module(x), atol=0.1)


def test_padding_row_of_an_embedding_stays_zero():
    example = EXAMPLES["Embedding"]()
    quantized = example.quantized()
    assert quantized.padding_idx == 3
    assert not quantized(torch.tensor([3])).any()


def test_per_channel_activation_is_an_error():
    config = integer_config().from_dict(
        {
            "weight": {"dtype": "int8", "scheme": "sym", "granularity": "per_channel"},
            "activation": {"dtype": "uint8", "scheme": "asym", "granularity": "per_channel", "quant_mode": "static"},
        }
    )
    with pytest.raises(ArgumentError, match="per_channel"):
        prepare_module(nn.Linear(3, 3), config, OperatorCalibration(0.0, 1.0))


@pytest.mark.parametrize(
    ("module", "calibration", "words"),
    [
        (nn.Linear(4, 3), OperatorCalibration(), "input_minimum=None"),
        (nn.Conv2d(4, 3, 1), OperatorCalibration(0.0, 1.0), "output_minimum=None"),
        (nn.Linear(4, 3), OperatorCalibration(0.0, 1.0, torch.ones(3)), "4 positive numbers"),
        (nn.Linear(4, 3), OperatorCalibration(0.0, 1.0, torch.tensor([1.0, 0.0, 1.0, 1.0])), "4 positive numbers"),
        (nn.Conv2d(4, 3, 1), OperatorCalibration(0.0, 1.0, torch.ones(4), 0.0, 1.0), "cannot be smoothed"),
        (nn.Linear(4, 3), OperatorCalibration(float("nan"), 1.0), "nan"),
    ],
)
def test_unfit_calibration_is_an_error(module, calibration, words):
    with pytest.raises(ArgumentError, match=words):
        prepare_module(module, integer_config(), calibration)


def test_wrong_modules_are_errors():
    with pytest.raises(ModelError, match="LayerNorm"):
        prepare_module(nn.LayerNorm(3), integer_config(), OperatorCalibration())
    with pytest.raises(ModelError, match="not prepared"):
        convert_module(nn.Linear(3, 3))
    with pytest.raises(ArgumentError, match="nothing to prepare"):
        prepare_module(nn.Linear(3, 3), FP32, OperatorCalibration())


@pytest.mark.parametrize("name", EXAMPLES)
def test_simulation_is_announced(name):
    example = EXAMPLES[name]()
    operator = type(example.module).__name__
    assert example.quantized().simulated == (simulation_reason(operator, example.config) is not None)


def test_weights_by_least_squared_error_are_not_worse():
    torch.manual_seed(0)
    module, x = nn.Linear(64, 8), torch.randn(50, 64)
    module.weight[:, 0] *= 20

    def noise(algorithm: str) -> float:
        config = integer_config("int4", approach="weight_only").to_dict()
        config["weight"]["algorithm"] = algorithm
        example = calibrated(module, integer_config().from_dict(config), x)
        return error(module.weight, example.prepared().fake_weight())

    def error(expected: Tensor, actual: Tensor) -> float:
        return float(((expected - actual) ** 2).sum())

    assert math.isfinite(noise("mse"))
    assert noise("mse") <= noise("minmax")


@pytest.mark.parametrize("name", ["linear smoothed", "linear int4", "Conv1D", "Conv2d"])
def test_a_weight_is_quantized_alike_in_blocks(name, monkeypatch):
    prepared = EXAMPLES[name]().prepared()
    expected = prepared.integer_weight()
    monkeypatch.setattr("inc_autotune.torch_ext.modules.fake_quantized._BLOCK_ELEMENTS", 3 * prepared.weight[0].numel())
    assert torch.equal(prepared.integer_weight(), expected)
