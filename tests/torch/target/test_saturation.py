"""Kernels that saturate with 8-bit weights, and models that move between processors with and without them."""

from __future__ import annotations

import copy
import io
import os
import platform
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors import safe_open
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.torch_ext.target import kernels, saturation
from tests.torch.module_examples import EXAMPLES, convolution, integer_config, linear
from tests.torch.small_models import (
    OutlierMLP,
    SmallCNN,
    error,
    image_batches,
    outlier_mlp,
    small_cnn,
    tune,
    vectors,
)

PROBES = (
    saturation.fused_linear_saturates,
    saturation.integer_product_saturates,
    saturation.compiled_linear_saturates,
    saturation.convolution_saturates,
)
WIDE = "8-bit weights of this model come from a processor with AVX512-VNNI"
KINDS = [
    *("linear", "linear smoothed", "linear dynamic", "linear dynamic sym", "Conv1D", "Conv1d", "Conv2d", "Conv3d"),
    *("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose2d grouped"),
]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def fresh_trials():
    for probe in PROBES:
        probe.cache_clear()
    yield
    for probe in PROBES:
        probe.cache_clear()


@pytest.fixture
def move(monkeypatch):
    """To a processor without VNNI, where every kernel but that of depthwise convolutions saturates."""

    def moved() -> None:
        for probe in PROBES[:3]:
            monkeypatch.setattr(saturation, probe.__name__, lambda: True)
        monkeypatch.setattr(saturation, "convolution_saturates", lambda dimensions, depthwise: not depthwise)
        monkeypatch.setattr(saturation, "has_fast_integer_product", lambda: False)

    return moved


@pytest.fixture
def with_8_bits(monkeypatch):
    """What a processor with VNNI makes: every weight with 8 bits."""

    def make(build):
        with monkeypatch.context() as there:
            there.setattr(saturation, "needs_reduced_range", lambda *_: False)
            return build()

    return make


# Trials


def saturated(sums):
    """Sums of 16 equal products, each two of which were added in int16."""
    return (sums / 8).clamp(-32768, 32767) * 8


@pytest.mark.usefixtures("fresh_trials")
@pytest.mark.parametrize("kernel", ["fused_linear", "fused_dynamic_linear"])
def test_a_fused_linear_that_saturates_is_found_out(kernel, monkeypatch):
    if not kernels.has_fused_linear():
        pytest.skip("FBGEMM's fused Linear is not available")
    real = getattr(kernels, kernel)
    monkeypatch.setattr(kernels, kernel, lambda *arguments: saturated(real(*arguments)))
    assert saturation.fused_linear_saturates()


@pytest.mark.usefixtures("fresh_trials")
def test_a_product_that_saturates_is_found_out(monkeypatch):
    def product(x, y):
        # As oneDNN: s8 * s8 is (x + 128) * s8, and the 128 taken off again.
        return saturated((x.float() + 128) @ y.float()) - 128 * y.float().sum(0)

    monkeypatch.setattr(torch, "_int_mm", product)
    assert saturation.integer_product_saturates()


@pytest.mark.usefixtures("fresh_trials")
def test_a_convolution_that_saturates_is_found_out(monkeypatch):
    real = kernels.integer_convolution
    monkeypatch.setattr(
        kernels,
        "integer_convolution",
        lambda x, *rest: torch.quantize_per_tensor(real(x, *rest).dequantize() / 2, *rest[-2:], torch.quint8),
    )
    assert saturation.convolution_saturates(2, False)


@pytest.mark.usefixtures("fresh_trials")
def test_an_operator_that_torch_does_not_have_is_not_there_to_saturate(monkeypatch):
    def missing():
        raise NotImplementedError("no such operator")
        yield

    monkeypatch.setattr(saturation, "_compiled_products", missing)
    assert not saturation.compiled_linear_saturates()


def test_only_proper_depthwise_convolutions_are_taken_for_such():
    assert saturation.is_depthwise(nn.Conv2d(8, 8, 3, groups=8))
    assert saturation.is_depthwise(nn.ConvTranspose2d(8, 8, 3, groups=8))
    others = nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(1, 1, 3)
    for module in (*others, nn.ConvTranspose2d(8, 8, 3, stride=2, groups=8)):
        assert not saturation.is_depthwise(module)


@pytest.mark.parametrize("name", KINDS)
def test_7_bits_are_right_in_whatever_kernel_takes_them(name):
    """With the largest weights and activations there are, of both signs."""
    example = EXAMPLES[name]()
    example.module.weight.copy_(example.module.weight.sign())
    prepared, quantized = example.prepared(reduce_range=True), example.quantized(reduce_range=True)
    for x in (torch.full_like(example.x, 9.0), torch.full_like(example.x, -9.0)):
        assert signal_to_noise_db(prepared(x), quantized(x)) >= 60


# Weights that are too wide


@pytest.mark.parametrize("name", KINDS)
def test_8_bits_are_right_where_kernels_saturate(name, move):
    example = EXAMPLES[name]()
    move()
    with pytest.warns(UserWarning, match=WIDE):
        quantized = example.quantized()
    assert quantized.packed is None
    assert signal_to_noise_db(example.prepared()(example.x), quantized(example.x)) >= 90


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": 4},
        {"stride": 2, "dilation": 2, "padding": 1, "bias": False},
        {"padding": "same", "kernel_size": 4},
        {"padding": 2, "padding_mode": "circular"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_a_convolution_in_float_has_the_geometry_of_the_kernel(dimensions, arguments, move):
    example = convolution(dimensions, **arguments)
    move()
    with pytest.warns(UserWarning, match=WIDE):
        quantized = example.quantized()
    expected, actual = example.prepared()(example.x), quantized(example.x)
    assert signal_to_noise_db(expected, actual) >= 60
    assert torch.equal(quantized(example.x[0]), actual[0])
    assert quantized(example.x[:0]).shape == (0, *actual.shape[1:])
    assert quantized(example.x.double()).dtype == torch.float64


@pytest.mark.parametrize("name", ["linear", "linear dynamic sym", "Conv2d"])
def test_7_bits_keep_their_kernels_and_give_no_warning(name, move):
    move()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized = EXAMPLES[name]().quantized(reduce_range=True)
    if name == "linear" and not kernels.has_fused_linear():
        pytest.skip("FBGEMM's fused Linear is not available")
    assert (quantized.packed is None) == (name == "linear dynamic sym")


def test_a_depthwise_convolution_keeps_8_bits(move):
    move()
    assert not saturation.needs_reduced_range("Conv2d", nn.Conv2d(8, 8, 3, groups=8))
    assert saturation.needs_reduced_range("Conv2d", nn.Conv2d(8, 8, 3))
    assert saturation.needs_reduced_range("Linear", nn.Linear(8, 8))
    assert not saturation.needs_reduced_range("Embedding", nn.Embedding(8, 8))


@pytest.mark.parametrize("name", KINDS)
def test_moved_by_pickle_copy_or_state_they_stay_right(name, move):
    example = EXAMPLES[name]()
    made = example.quantized()
    file = io.BytesIO()
    torch.save(made, file)
    expected = example.prepared()(example.x)
    narrow = example.quantized(reduce_range=True)
    move()
    file.seek(0)
    narrow.load_state_dict(made.state_dict())
    for moved in (torch.load(file, weights_only=False), copy.deepcopy(made), narrow):
        assert torch.equal(moved.integer_weight, made.integer_weight)
        assert signal_to_noise_db(expected, moved(example.x)) >= 90


@pytest.mark.filterwarnings(f"ignore:the {WIDE}")
@pytest.mark.parametrize("name", KINDS)
def test_moved_they_trace_and_export(name, move):
    move()
    example = EXAMPLES[name]()
    quantized = example.quantized()
    expected = quantized(example.x)
    larger = torch.cat([example.x, example.x])
    frozen = torch.jit.freeze(torch.jit.trace(quantized, example.x))
    assert torch.equal(frozen(example.x), expected)
    assert torch.equal(frozen(larger), quantized(larger))
    program = torch.export.export(quantized, (example.x,))
    assert signal_to_noise_db(expected, program.module()(example.x)) >= 90
    names = {str(node.target) for node in program.graph.nodes}
    assert not any("quantized_decomposed" in each for each in names), "inductor would make a kernel of it"


@pytest.mark.filterwarnings(f"ignore:the {WIDE}")
@pytest.mark.parametrize("build", [lambda: linear(integer_config()), lambda: convolution(2)], ids=["Linear", "Conv2d"])
def test_moved_they_compile_to_no_kernel_that_saturates(build, move):
    move()
    example = build()
    quantized = example.quantized()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._inductor.config.patch(freezing=True):
        actual = torch.compile(quantized, fullgraph=True)(example.x)
    assert signal_to_noise_db(example.prepared()(example.x), actual) >= 60
    assert not any("prepack" in name for name in torch._dynamo.utils.counters["inductor"])


# Whole models


CASES = {
    "mlp": (outlier_mlp, OutlierMLP, vectors()),
    "cnn": (small_cnn, SmallCNN, image_batches()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_saved_model_is_loaded_with_its_8_bits_and_is_right(name, with_8_bits, move, tmp_path):
    make, architecture, data = CASES[name]
    tuned = with_8_bits(lambda: tune(make(), data))
    made = torch_ext.convert(tuned)
    expected = made(data[0])
    torch_ext.save(made, tmp_path)
    move()
    with pytest.warns(UserWarning, match=WIDE):
        loaded = torch_ext.load(tmp_path, architecture())
    for (key, value), other in zip(made.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    # A rounding that falls to the other side in one layer is seen by all that follow.
    assert error(loaded(data[0]), expected) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_for_8_bits_gives_7_where_kernels_saturate(name, with_8_bits, move, tmp_path):
    make, architecture, data = CASES[name]
    model = make()
    recipe = with_8_bits(lambda: tune(model, data)).tuning_result.recipe
    quantized = [key for key, each in recipe.operators.items() if each.config.is_quantized]
    assert quantized
    assert [recipe.operators[key].calibration["reduce_range"] for key in quantized] == [False] * len(quantized)
    move()
    quantized = [key for key in quantized if key != "depthwise"]  # whose kernel is exact
    with pytest.warns(UserWarning, match=rf"8-bit weights.*{len(quantized)} operators get 7-bit weights.*evaluate"):
        moved = torch_ext.apply_recipe(model, recipe)
    assert moved.tuning_recipe.operators[quantized[0]].calibration["reduce_range"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = torch_ext.convert(moved)
        again = torch_ext.apply_recipe(model, moved.tuning_recipe)
        here = tune(model, data)
        torch_ext.save(converted, tmp_path)
        loaded = torch_ext.load(tmp_path, architecture())
    for key in quantized:
        weight = converted.get_submodule(key).integer_weight
        assert saturation.is_within_7_bits(weight)
        assert torch.equal(weight, torch_ext.convert(here).get_submodule(key).integer_weight), "as if tuned here"
    assert torch.equal(again(data[0]), moved(data[0]))
    assert torch.equal(loaded(data[0]), converted(data[0]))
    assert error(converted(data[0]), model(data[0])) < 1e-2


def test_7_bits_stay_7_bits_everywhere(with_8_bits, move, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(saturation, "needs_reduced_range", lambda *_: True)
        tuned = tune(outlier_mlp(), vectors())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rebuilt = with_8_bits(lambda: torch_ext.apply_recipe(outlier_mlp(), tuned.tuning_result.recipe))
    assert torch.equal(rebuilt(vectors()[0]), tuned(vectors()[0]))


def test_an_old_recipe_without_the_key_is_one_of_8_bits(with_8_bits, move):
    recipe = with_8_bits(lambda: tune(outlier_mlp(), vectors())).tuning_result.recipe
    text = recipe.to_yaml().replace("reduce_range: false", "output_minimum: null")
    move()
    with pytest.warns(UserWarning, match="8-bit weights"):
        torch_ext.apply_recipe(outlier_mlp(), Recipe.from_yaml(text))


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("convert", [False, True], ids=["tuned", "converted"])
def test_the_files_say_how_wide_the_weights_are(reduced, convert, monkeypatch, tmp_path):
    monkeypatch.setattr(saturation, "needs_reduced_range", lambda *_: reduced)
    tuned = tune(outlier_mlp(), vectors())
    torch_ext.save(torch_ext.convert(tuned) if convert else tuned, tmp_path)
    bits = 7 if reduced else 8
    assert Recipe.load(tmp_path / "recipe.yaml").metadata["weight_bits"] == [bits]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["weight_bits"] == str(bits)


def test_the_result_says_which_weights_have_7_bits(move):
    move()
    result = tune(small_cnn(), image_batches()).tuning_result
    assert any("saturate on this processor" in note and "Conv2d" in note for note in result.notes)
    reduced = {name for name, each in result.recipe.operators.items() if each.calibration.get("reduce_range")}
    quantized = {name for name, each in result.recipe.operators.items() if each.config.is_quantized}
    assert reduced == quantized - {"depthwise"}


# The real thing

BOUND_PROCESS = """
import sys
import torch
from inc_autotune import torch_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.target import saturation
from tests.torch.module_examples import EXAMPLES
from tests.torch.small_models import SmallCNN, image_batches, small_cnn, tune
assert saturation.compiled_linear_saturates()
for dimensions in (1, 2, 3):
    assert saturation.convolution_saturates(dimensions, False)
assert not saturation.convolution_saturates(2, True)
for name in ("linear", "linear dynamic sym", "Conv1d", "Conv2d", "Conv3d"):
    example = EXAMPLES[name]()
    for reduced in (False, True):
        expected, actual = example.prepared(reduced)(example.x), example.quantized(reduced)(example.x)
        assert signal_to_noise_db(expected, actual) >= 60, (name, reduced)
made = torch.load(sys.argv[1], weights_only=False)
inputs, expected = torch.load(sys.argv[2])
assert float(((made(inputs) - expected) ** 2).sum() / (expected**2).sum()) < 1e-5
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of x86 processors")
@pytest.mark.skipif(not kernels.has_engine("onednn"), reason="this torch was built without oneDNN")
def test_a_model_moves_to_a_process_without_vnni(with_8_bits, tmp_path):
    data = image_batches()
    made = with_8_bits(lambda: torch_ext.convert(tune(small_cnn(), data)))
    torch.save(made, tmp_path / "model.pt")
    torch.save((data[0], made(data[0])), tmp_path / "data.pt")
    arguments = [sys.executable, "-c", BOUND_PROCESS, str(tmp_path / "model.pt"), str(tmp_path / "data.pt")]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert WIDE in result.stderr
