"""An operator in its other forms is still the user's layer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.modules import is_quantized
from inc_autotune.torch_ext.modules.half_quantized import half_quantized
from tests.torch.module_examples import BF16, calibrated, integer_config

GAIN = 1.5


class Scaled(nn.Linear):
    """A layer with a method, a property and a class attribute."""

    bound = 3.0

    def gain(self) -> float:
        return 0.5 * self.in_features**0.5

    @property
    def width(self) -> int:
        return self.out_features


class Base(nn.Module):
    def __init__(self, first: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = first(16, 32), nn.Linear(32, 8)


class Attribute(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a.gain = GAIN

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * self.a.gain)


class Buffer(Attribute):
    def __init__(self) -> None:
        super().__init__()
        del self.a.gain
        self.a.register_buffer("gain", torch.full((32,), GAIN))


class DerivedBuffer(Attribute):
    def __init__(self) -> None:
        super().__init__()
        del self.a.gain
        self.a.register_buffer("gain", torch.full((32,), GAIN), persistent=False)


class Parameter(Attribute):
    def __init__(self) -> None:
        super().__init__()
        del self.a.gain
        self.a.gain = nn.Parameter(torch.full((32,), GAIN))


class Child(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a.norm(self.a(x)))


class ChildThatIsAnOperator(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a.next = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a.next(torch.relu(self.a(x)))))


class Method(Base):
    def __init__(self) -> None:
        super().__init__(Scaled)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * self.a.gain() * self.a.bound / self.a.width)


class ByClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(16, 32), nn.ReLU(), Scaled(32, 8)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) * 2 if isinstance(layer, nn.Linear) else layer(x)
            x = x + 1 if isinstance(layer, Scaled) else x
        return x


class ConvolutionByClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)])
        self.layers[0].gain = GAIN

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (1, 4, 4))
        for layer in self.layers:
            x = layer(x) * getattr(layer, "gain", 2.0) if isinstance(layer, nn.Conv2d) else layer(x)
            x = x / layer.output_padding[0].__add__(1) if isinstance(layer, nn.Conv2d) else x
        return x.flatten(1)


MODELS = [
    Attribute,
    Buffer,
    DerivedBuffer,
    Parameter,
    Child,
    ChildThatIsAnOperator,
    Method,
    ByClass,
    ConvolutionByClass,
]


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 16, generator=generator) for _ in range(6)]


@pytest.fixture(params=MODELS, ids=lambda cls: cls.__name__)
def model(request) -> nn.Module:
    return request.param().eval()


@pytest.mark.parametrize("approach", ["static", "dynamic"])
def test_model_reads_its_layers_as_before(model, approach):
    if approach == "dynamic" and isinstance(model, ConvolutionByClass):
        pytest.skip("there is no dynamic convolution")
    x = torch.cat(data())
    tuned = torch_ext.autotune(model, data(), approach=approach, progress=False)
    quantized = torch_ext.convert(tuned)
    assert not {n: r for n, r in tuned.tuning_result.fallbacks.items() if "not faster" not in r}
    assert any(map(is_quantized, quantized.modules()))
    with torch.no_grad():
        expected, found = model(x), quantized(x)
        assert signal_to_noise_db(expected, tuned(x)) > 20
        assert signal_to_noise_db(expected, found) > 20
        for again in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized)), torch.jit.trace(quantized, x)):
            assert torch.equal(again(x), found)
        exported = torch.export.export(quantized, (x,)).module()(x)
        assert signal_to_noise_db(found, exported) > 40
        assert signal_to_noise_db(expected, torch.compile(quantized, backend="eager")(x)) > 20


def test_saved_and_loaded(model, tmp_path):
    quantized = torch_ext.convert(torch_ext.autotune(model, data(), progress=False))
    torch_ext.save(quantized, tmp_path)
    again = torch_ext.load(tmp_path, type(model)().eval())
    assert torch.equal(again(data()[0]), quantized(data()[0]))


def test_children_and_tensors_of_a_layer_belong_to_each_model_alone():
    for cls in (Child, Buffer, DerivedBuffer, Parameter):
        model = cls().eval()
        tuned = torch_ext.autotune(model, data(), progress=False)
        quantized = torch_ext.convert(tuned)
        twin = torch_ext.convert(tuned)
        before = quantized(data()[0])
        with torch.no_grad():
            for other in (model, tuned, twin):
                for tensor in (*other.parameters(), *other.buffers()):
                    tensor.mul_(3)
        assert torch.equal(quantized(data()[0]), before)


def test_half_precision_reaches_what_is_the_users_and_not_the_scales():
    quantized = torch_ext.convert(torch_ext.autotune(Child().eval(), data(), progress=False)).half()
    assert quantized.a.norm.weight.dtype == torch.float16
    assert quantized.b.weight_scale.dtype == torch.float32
    assert quantized(data()[0].half()).dtype == torch.float16


@pytest.mark.parametrize("config", [integer_config(), integer_config(approach="dynamic"), integer_config("int4"), BF16])
def test_every_form_is_an_instance_of_the_layers_class(config):
    layer = Scaled(16, 8)
    example = calibrated(layer, config, torch.randn(4, 16))
    halves = [half_quantized(layer, config, example.calibration, half, False) for half in ("weight", "activation")]
    for form in (example.prepared(), example.quantized(), *halves):
        assert isinstance(form, Scaled)
        assert form.gain() == layer.gain()
        assert form.width == 8


@pytest.mark.parametrize("name", ["smoothing", "config", "integer_weight", "packed", "rebuild"])
def test_a_layer_whose_attribute_has_a_name_that_is_taken_stays_in_fp32(name):
    class Model(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)) * getattr(self.a, name))

    model = Model().eval()
    setattr(model.a, name, GAIN)
    result = torch_ext.autotune(model, data(), progress=False).tuning_result
    assert list(result.fallbacks) == ["a"]
    assert f"attribute {name!r}" in result.fallbacks["a"]


def test_a_method_of_a_name_that_is_taken_is_refused():
    class Clashing(nn.Linear):
        def fake_weight(self) -> float:
            return 1.0

    with pytest.raises(ModelError, match="'fake_weight'"):
        calibrated(Clashing(16, 8), integer_config(), torch.randn(4, 16)).prepared()
