"""What a model does between two integer convolutions gives the same result on bytes, put off, as done at once."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.modules.convolution import QuantizedConvolution
from inc_autotune.torch_ext.modules.deferred import DeferredTensor, deferred, plain, rounded
from inc_autotune.torch_ext.modules.deferred_value import Grid, written
from tests.torch.small_models import dtypes, error, tune


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def halves(x: Tensor) -> Tensor:
    left, right = F.silu(x).chunk(2, 1)
    return torch.cat([left, right + left], 1)


def in_place(x: Tensor) -> Tensor:
    x += 0.25
    x.relu_()
    x *= 0.5
    x[:, 0] = 1.0
    return x


GLUE = {
    "nothing": lambda x: x,
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "relu6": F.relu6,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "hardtanh": nn.Hardtanh(),
    "silu": nn.SiLU(inplace=True),
    "hardswish": F.hardswish,
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "leaky relu": nn.LeakyReLU(0.1),
    "sigmoid": torch.sigmoid,
    "gelu": nn.GELU(),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "residual": lambda x: F.relu(x + F.silu(x)),
    "sum of integers": lambda x: F.relu(x + x.flip(-1)),
    "max pooling": nn.MaxPool2d(3, 2, 1),
    "silu and max pooling": lambda x: F.max_pool2d(F.silu(x), 2),
    "pooling with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "average pooling": nn.AvgPool2d(2),
    "concatenation": lambda x: torch.cat([x, F.relu(x)], 1)[:, 4:12],
    "halves": halves,
    "shuffle": lambda x: x.view(x.size(0), 2, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    "upsampling": lambda x: F.interpolate(x, scale_factor=2),
    "padding": lambda x: F.pad(x, (1, 0, 1, 0)),
    "in place": in_place,
    "dropout": nn.Dropout2d().eval(),
    "dtype": lambda x: x.to(x.dtype).float().contiguous() if x.is_floating_point() else None,
    "a class is asked for": lambda x: x if isinstance(x, Tensor) and not x.is_quantized else None,
    "softmax": lambda x: x.softmax(1),
    "copied": copy.deepcopy,
    "pickled": lambda x: pickle.loads(pickle.dumps(x)),
}


DONE_AT_ONCE = ("average pooling", "padding", "softmax", "copied", "pickled", "in place")
"""Behind these the result has to be a plain tensor, and so the convolution hands on no integers by itself."""


class Chain(nn.Module):
    def __init__(self, glue) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.glue = glue
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.glue(self.first(x)))


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 12, 12) for _ in range(3)]


@pytest.mark.parametrize("name", GLUE)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_results_are_those_of_plain_tensors(name, images):
    torch.manual_seed(0)
    model = Chain(GLUE[name]).eval()
    tuned = tune(model, images)
    quantized = torch_ext.convert(tuned)
    assert quantized.first._hands_on_integers == (name not in DONE_AT_ONCE)
    quantized.first._hands_on_integers = True
    x = images[0]
    actual = quantized(x)
    assert type(actual) is Tensor
    # One rounding in 100,000 may fall to the other side, here or in a kernel.
    assert signal_to_noise_db(tuned(x), actual) >= 45
    assert signal_to_noise_db(model(x), actual) >= 25
    if name not in ("copied", "pickled"):
        traced = torch.jit.freeze(torch.jit.trace(quantized, x))
        assert torch.equal(traced(x), actual)
    quantized.first._hands_on_integers = False
    assert signal_to_noise_db(quantized(x), actual) >= 45


def test_bytes_pass_from_kernel_to_kernel(images):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 4, 1))
    tuned = tune(model.eval(), images)
    assert set(dtypes(tuned).values()) == {"int8"}, "the depthwise one too, since its neighbours are"
    traced = torch.jit.freeze(torch.jit.trace(torch_ext.convert(tuned), images[0]))
    kinds = [node.kind() for node in traced.inlined_graph.nodes()]
    assert kinds.count("aten::quantize_per_tensor") == 1
    assert kinds.count("aten::dequantize") == 1
    assert kinds.count("quantized::conv2d") == 3


def test_one_dimension_and_transposed_ones(images):
    model = nn.Sequential(
        nn.Conv1d(12, 8, 3), nn.SiLU(), nn.ConvTranspose1d(8, 8, 2, stride=2), nn.ReLU(), nn.Conv1d(8, 4, 3)
    )
    data = [x[:, 0] for x in images]
    tuned = tune(model.eval(), data)
    quantized = torch_ext.convert(tuned)
    assert [each._hands_on_integers for each in quantized if isinstance(each, QuantizedConvolution)] == [
        True,
        True,
        False,
    ]
    assert error(quantized(data[0]), tuned(data[0])) < 1e-5
    assert torch.equal(quantized(data[0][0]), quantized(data[0])[0])


def test_a_plain_tensor_may_be_written_after_it_was_read():
    integers = torch.quantize_per_tensor(torch.randn(2, 4, 3, 3), 0.05, 100, torch.quint8)
    x, expected = deferred(written(integers, Grid(0.05, 100)), any_layout=True), integers.dequantize()
    for function in (torch.add, torch.mul, lambda *both: torch.cat(both, 1)):
        other = torch.randn_like(expected)
        result, meant = function(x, other), function(expected, other)
        other.zero_()
        assert torch.equal(plain(result), meant)


class Shortcut(nn.Module):
    """A Linear and a program with `view` read what a convolution reads too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head, self.side = nn.Linear(8 * 12 * 12, 5), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y = self.second(x) + x
        return self.head(y.view(y.size(0), -1)) + self.side(x).sum((1, 2))


def test_other_readers_get_plain_tensors(images):
    tuned = tune(Shortcut().eval(), images)
    assert set(dtypes(tuned).values()) == {"int8"}
    quantized = torch_ext.convert(tuned)
    assert quantized.first._hands_on_integers
    assert not quantized.second._hands_on_integers
    assert error(quantized(images[0]), tuned(images[0])) < 1e-5
    again = torch_ext.convert(torch_ext.apply_recipe(Shortcut().eval(), tuned.tuning_result.recipe))
    assert again.first._hands_on_integers
    assert torch.equal(again(images[0]), quantized(images[0]))
    exported = torch.export.export(quantized, (images[0],)).module()
    assert error(exported(images[0]), tuned(images[0])) < 1e-3


def test_a_deferred_tensor_looks_like_the_float_tensor_it_stands_for():
    integers = torch.quantize_per_tensor(torch.randn(2, 4, 3, 3), 0.05, 100, torch.quint8)
    x, expected = deferred(written(integers, Grid(0.05, 100)), any_layout=False), integers.dequantize()
    assert isinstance(x, Tensor)
    assert (x.dtype, x.device, x.shape, x.ndim, x.numel(), len(x)) == (
        torch.float32,
        expected.device,
        expected.shape,
        4,
        72,
        2,
    )
    assert (x.size(1), x.dim(), x.stride(), x.requires_grad) == (4, 4, expected.stride(), False)
    assert torch.equal(torch.as_tensor(x.numpy()), expected)
    assert repr(x) == repr(expected)
    assert torch.equal(plain(F.silu(x)), F.silu(expected))
    assert torch.equal(plain(x + x), expected + expected)
    assert torch.equal(rounded(x, Grid(0.05, 100)).int_repr(), integers.int_repr())
    assert torch.equal(rounded(x, Grid(0.1, 50)), torch.quantize_per_tensor(expected, 0.1, 50, torch.quint8))
    assert not isinstance(x.sum(), DeferredTensor)


def test_a_sum_may_be_rounded_for_all_of_its_readers():
    grid, coarse = Grid(0.05, 100), Grid(0.3, 90)
    values = [torch.quantize_per_tensor(torch.randn(2, 4, 3, 3), *grid, torch.quint8) for _ in range(2)]
    one, other = (deferred(written(each, grid), any_layout=True) for each in values)
    exact = values[0].dequantize() + values[1].dequantize()
    for make in (lambda: one + other, lambda: F.relu(one + other)):
        total = make()
        integers = rounded(total, coarse)
        assert torch.equal(plain(total), make().value.floats()), "for one reader, the others get what it was"
        total = make()
        assert torch.equal(rounded(total, coarse, for_all=True), integers)
        assert torch.equal(plain(total), integers.dequantize())
        assert (total + one).value.summands is not None, "its sums are those of integers now"
    seen = one + other
    assert torch.equal(plain(seen), exact)
    rounded(seen, coarse, for_all=True)
    assert torch.equal(plain(seen), exact), "what was read once stays as it was read"


class Joined(nn.Module):
    """Two convolutions whose outputs one other reads, pooled and joined."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(F.max_pool2d(torch.cat([F.relu(self.first(x)), self.second(x)], 1), 2))


def test_what_is_joined_is_written_on_the_grid_of_its_reader(images):
    quantized = torch_ext.convert(tune(Joined().eval(), images))
    assert quantized.first._output == quantized.second._output == quantized.third._input
    frozen = torch.jit.freeze(torch.jit.trace(quantized, images[0]))
    kinds = [node.kind() for node in frozen.inlined_graph.nodes()]
    assert [kinds.count(f"aten::{name}") for name in ("quantize_per_tensor", "dequantize")] == [1, 1]


@pytest.mark.parametrize(
    ("activation", "kernel"), [(nn.Hardswish(), "hardswish"), (nn.LeakyReLU(0.2, inplace=True), "leaky_relu")]
)
def test_activations_with_a_kernel_write_the_integers_that_are_read(activation, kernel, images):
    tuned = tune(Chain(activation).eval(), images)
    frozen = torch.jit.freeze(torch.jit.trace(torch_ext.convert(tuned), images[0]))
    kinds = [node.kind() for node in frozen.inlined_graph.nodes()]
    assert f"quantized::{kernel}" in kinds
    assert kinds.count("aten::dequantize") == 1
    assert signal_to_noise_db(tuned(images[0]), frozen(images[0])) >= 45


def test_a_question_for_the_dimensions_computes_nothing():
    integers = torch.quantize_per_tensor(torch.randn(2, 4, 6, 6), 0.05, 100, torch.quint8)
    x = deferred(written(integers, Grid(0.05, 100)), any_layout=True)
    gates = torch.cat([F.silu(x), x], 1)
    for y in (gates, F.max_pool2d(gates, 2), gates * x.narrow(0, 0, 1), (gates + gates).transpose(1, 2)):
        assert y.dim() == y.ndim == 4
        assert not y.value.has_floats
    assert gates.unsqueeze(0).dim() == 5
