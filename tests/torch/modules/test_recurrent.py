"""LSTM, GRU and RNN: prepared and quantized forms compute the same numbers, and are still the user's layer."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.model.untouched import tensors_in
from inc_autotune.torch_ext.modules import convert_module, prepare_module
from inc_autotune.torch_ext.modules.half_quantized import half_quantized
from inc_autotune.torch_ext.target import kernels, saturation
from tests.torch.module_examples import BF16, integer_config

DYNAMIC = integer_config(approach="dynamic")
WEIGHT_ONLY = integer_config(approach="weight_only")
FEATURES, HIDDEN, PROJECTED = 12, 20, 7

GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "both directions, two layers": {"bidirectional": True, "num_layers": 2},
    "batch first": {"batch_first": True, "num_layers": 2, "dropout": 0.3},
    "without bias": {"bias": False},
}
KINDS = ["LSTM", "GRU", "RNN"]
LAYERS = [
    *((kind, arguments) for kind in KINDS for arguments in GEOMETRIES.values()),
    ("LSTM", {"proj_size": PROJECTED, "bidirectional": True}),
    ("RNN", {"nonlinearity": "relu"}),
]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def layer(kind: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return getattr(nn, kind)(FEATURES, HIDDEN, **arguments).eval()


def prepared(module: nn.Module, config: Any = DYNAMIC, reduce_range: bool = False) -> nn.Module:
    return prepare_module(module, config, OperatorCalibration(), reduce_range=reduce_range).eval()


def state(module: Any, rows: int = 4) -> Any:
    count = module.num_layers * (2 if module.bidirectional else 1)
    hidden = torch.randn(count, rows, module.proj_size or HIDDEN)
    return (hidden, torch.randn(count, rows, HIDDEN)) if module.mode == "LSTM" else hidden


def ways_to_call(module: Any) -> dict[str, tuple[Any, ...]]:
    x = torch.randn(4, 4, FEATURES)
    packed = pack_padded_sequence(x, torch.tensor([2, 4, 1, 4]), module.batch_first, enforce_sorted=False)
    given = state(module)
    single = tuple(each[:, 0] for each in given) if module.mode == "LSTM" else given[:, 0]
    return {
        "zeros": (x,),
        "initial state": (x, given),
        "packed": (packed,),
        "packed with state": (packed, given),
        "one sequence": (x[0],),
        "one sequence with state": (x[0], single),
    }


def worst(expected: Any, actual: Any) -> float:
    pairs = list(zip(tensors_in(expected), tensors_in(actual), strict=True))
    assert all(one.shape == other.shape and one.dtype == other.dtype for one, other in pairs)
    return min(signal_to_noise_db(one, other) for one, other in pairs if one.is_floating_point())


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors_in(one), tensors_in(other), strict=True))


@pytest.mark.parametrize("config", [DYNAMIC, WEIGHT_ONLY, BF16], ids=["dynamic", "weight only", "bf16"])
@pytest.mark.parametrize(("kind", "arguments"), LAYERS)
def test_every_form_agrees_however_it_is_called(kind, arguments, config):
    module = layer(kind, **arguments)
    fake = prepared(module, config)
    quantized = convert_module(fake)
    for name, given in ways_to_call(module).items():
        expected, between, actual = module(*given), fake(*given), quantized(*given)
        assert type(actual[0]) is type(expected[0])
        assert worst(expected, between) > 30, name
        assert worst(between, actual) >= 90, name


@pytest.mark.parametrize("kind", KINDS)
def test_without_fbgemm_the_steps_are_the_same(kind, monkeypatch):
    module = layer(kind, num_layers=2, bidirectional=True)
    expected = convert_module(prepared(module))
    monkeypatch.setattr(kernels, "has_fused_linear", lambda: False)
    kernels.recurrent_kernels.cache_clear()
    other = convert_module(prepared(module))
    kernels.recurrent_kernels.cache_clear()
    assert not other.packed_parts
    for given in ways_to_call(module).values():
        assert worst(expected(*given), other(*given)) >= 60


@pytest.mark.skipif(not kernels.has_fused_linear(), reason="FBGEMM's fused Linear is not available")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_fbgemm_runs_all_layers_in_one_call(kind):
    reduced = saturation.needs_reduced_range(kind, nn.Linear(1, 1))
    assert len(convert_module(prepared(layer(kind, num_layers=2), reduce_range=reduced)).packed_parts) == 2
    assert not convert_module(prepared(layer("RNN"), reduce_range=reduced)).packed_parts


@pytest.mark.parametrize("kind", KINDS)
def test_weights_too_wide_for_the_kernel_are_right(kind, monkeypatch):
    module = layer(kind)
    given = (torch.randn(5, 3, FEATURES),)
    expected = convert_module(prepared(module))(*given)
    monkeypatch.setattr(saturation, "fused_linear_saturates", lambda: True)
    monkeypatch.setattr(saturation, "integer_product_saturates", lambda: True)
    with pytest.warns(UserWarning, match="8-bit weights of this model"):
        wide = convert_module(prepared(module))
    assert not wide.packed_parts
    assert worst(expected, wide(*given)) >= 60
    narrow = convert_module(prepared(module, reduce_range=True))
    assert bool(narrow.packed_parts) == (kind != "RNN" and kernels.has_fused_linear())
    assert worst(module(*given), narrow(*given)) > 30


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_integers_are_simulated(kind):
    module = layer(kind)
    fake = prepared(module, integer_config("int4", "uint4", approach="dynamic"))
    quantized = convert_module(fake)
    x = torch.randn(5, 3, FEATURES)
    assert quantized.simulated
    assert worst(fake(x), quantized(x)) >= 90


@pytest.mark.parametrize(("kind", "arguments"), [("LSTM", {}), ("RNN", {}), ("LSTM", {"proj_size": PROJECTED})])
def test_its_output_is_an_ordinary_tensor(kind, arguments):
    """A program may train what stands behind it, or keep the state for the next call."""
    quantized = convert_module(prepared(layer(kind, **arguments)))
    x = torch.randn(5, 3, FEATURES)
    expected = quantized(x)
    with torch.enable_grad():
        output, last = quantized(x.clone().requires_grad_())
        assert torch.equal(output, expected[0])
        nn.Linear(output.shape[-1], 2)(output).sum().backward()
        quantized(x, last)


def test_a_static_recurrent_layer_is_an_error():
    with pytest.raises(ArgumentError, match=r"hidden state(.|\n)*dynamic or weight_only"):
        prepared(layer("LSTM"), integer_config())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "error"),
    [
        ((torch.randn(2, 3, FEATURES + 1),), RuntimeError),
        ((torch.randn(FEATURES),), ValueError),
        ((torch.randn(2, 3, FEATURES), torch.randn(1, 1, HIDDEN)), RuntimeError),
        ((torch.randn(0, 3, FEATURES),), RuntimeError),
    ],
    ids=["features", "dimensions", "state", "no time"],
)
def test_what_torch_refuses_is_refused(kind, given, error):
    if kind == "LSTM" and len(given) > 1:
        given = (given[0], (given[1], given[1]))
    module = layer(kind)
    for form in (module, prepared(module), convert_module(prepared(module))):
        with pytest.raises(error):
            form(*given)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_inputs_are_taken(kind):
    quantized = convert_module(prepared(layer(kind)))
    x = torch.randn(5, 3, FEATURES)
    assert quantized(x[:, :0])[0].shape == (5, 0, HIDDEN)
    assert same(quantized(x.double())[0].float(), quantized(x)[0])
    assert quantized(x.bfloat16())[0].dtype == torch.bfloat16
    assert same(quantized(x.flip(2).flip(2).transpose(0, 1).contiguous().transpose(0, 1)), quantized(x))


def saved_and_loaded(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def state_loaded(module: nn.Module, **arguments: Any) -> nn.Module:
    other = layer(module.operator_name, num_layers=2, bidirectional=True)
    for parameter in other.parameters():
        parameter.mul_(-0.7)
    twin = convert_module(prepared(other, module.config))
    twin.load_state_dict(copy.deepcopy(module.state_dict()), **arguments)
    return twin


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": saved_and_loaded,
    "state": state_loaded,
    "state assigned": lambda module: state_loaded(module, assign=True),
    "half": lambda module: copy.deepcopy(module).half().to("cpu"),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("config", [DYNAMIC, WEIGHT_ONLY, BF16], ids=["dynamic", "weight only", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_give_the_same_bits(kind, config, how):
    quantized = convert_module(prepared(layer(kind, num_layers=2, bidirectional=True), config))
    x = torch.randn(5, 3, FEATURES)
    twin = COPIES[how](quantized)
    assert same(twin(x), quantized(x))
    assert repr(twin) == repr(quantized)


@pytest.mark.parametrize("config", [DYNAMIC, WEIGHT_ONLY, BF16], ids=["dynamic", "weight only", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_programs_find_the_weights_of_their_layer(kind, config):
    module = layer(kind, bidirectional=True)
    fake = prepared(module, config)
    for form in (fake, convert_module(fake), copy.deepcopy(fake), convert_module(copy.deepcopy(fake))):
        assert isinstance(form, getattr(nn, kind))
        form.flatten_parameters()
        assert not hasattr(form, "weight")
        assert form.weight_ih_l0.dtype == torch.float32
        names = [name for names in module._all_weights for name in names]
        for name, listed in zip(names, [each for parts in form.all_weights for each in parts], strict=True):
            assert torch.allclose(listed, getattr(module, name), atol=0.01)
        assert [each.shape for each in form._flat_weights] == [each.shape for each in module._flat_weights]
        assert (form.hidden_size, form.mode, form.batch_first) == (HIDDEN, module.mode, False)


def test_what_the_user_has_put_on_the_layer_stays():
    module = layer("LSTM")
    module.note = "mine"
    quantized = convert_module(prepared(module))
    assert quantized.note == "mine"
    assert not list(quantized.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_layer_is_trained(kind):
    module = layer(kind, num_layers=2, dropout=0.5)
    fake = prepared(module)
    x = torch.randn(5, 3, FEATURES)
    with torch.enable_grad():
        expected, actual = module(x)[0], fake(x)[0]
        expected.sum().backward()
        wanted = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
        module.zero_grad()
        actual.sum().backward()
    for name, parameter in fake.named_parameters():
        assert parameter is module.get_parameter(name)
        assert signal_to_noise_db(wanted[name], parameter.grad) > 15, name
    assert same(fake(x), fake(x))
    fake.train()
    assert not same(fake(x), fake(x)), "dropout between the layers"


@pytest.mark.parametrize("kind", KINDS)
def test_halves_add_up(kind):
    module = layer(kind)
    x = torch.randn(5, 3, FEATURES)
    expected = module(x)
    both = worst(expected, prepared(module)(x))
    for half in ("weight", "activation"):
        one = half_quantized(module, DYNAMIC, OperatorCalibration(), half, False)
        assert both - 3 < worst(expected, one(x)) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_exported_it_keeps_integer_weights(kind):
    quantized = convert_module(prepared(layer(kind, batch_first=True)))
    x = torch.randn(4, 5, FEATURES)
    sizes = ({0: torch.export.Dim("batch", min=2, max=9)},)
    with pytest.warns(UserWarning, match=f"an exported {kind} keeps its INT8 weights.*computes in float32"):
        program = torch.export.export(quantized, (x,), dynamic_shapes=sizes)
    assert sum(each.dtype == torch.int8 for each in program.state_dict.values()) == 2
    assert worst(quantized(x), program.module()(x)) > 30
    assert program.module()(x[:3])[0].shape == (3, 5, HIDDEN)


TRACED = [*((kind, {}) for kind in KINDS), ("RNN", {"nonlinearity": "relu"}), ("LSTM", {"proj_size": PROJECTED})]


@pytest.mark.parametrize("config", [DYNAMIC, WEIGHT_ONLY], ids=["dynamic", "weight only"])
@pytest.mark.parametrize(("kind", "arguments"), TRACED)
def test_traced_it_takes_any_length(kind, arguments, config, tmp_path):
    reduced = saturation.needs_reduced_range(kind, nn.Linear(1, 1))
    quantized = convert_module(prepared(layer(kind, num_layers=2, bidirectional=True, **arguments), config, reduced))
    if config is DYNAMIC and not kernels.has_fused_linear():
        pytest.skip("FBGEMM's fused Linear is not available")
    traced = torch.jit.freeze(torch.jit.trace(quantized, torch.randn(5, 3, FEATURES)))
    traced.save(tmp_path / "model.pt")
    for program in (traced, torch.jit.load(tmp_path / "model.pt")):
        for x in (torch.randn(9, 2, FEATURES), torch.randn(1, 4, FEATURES), torch.randn(7, 1, FEATURES)):
            assert same(program(x), quantized(x))


class PackedModel(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        output: PackedSequence = self.inner(pack_padded_sequence(x, lengths))[0]
        return nn.utils.rnn.pad_packed_sequence(output)[0]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.skipif(not kernels.has_fused_linear(), reason="FBGEMM's fused Linear is not available")
@pytest.mark.parametrize(("kind", "arguments"), TRACED)
def test_traced_it_takes_packed_sequences(kind, arguments):
    reduced = saturation.needs_reduced_range(kind, nn.Linear(1, 1))
    module = layer(kind, bidirectional=True, **arguments)
    model = PackedModel(convert_module(prepared(module, reduce_range=reduced))).eval()
    traced = torch.jit.trace(model, (torch.randn(5, 3, FEATURES), torch.tensor([5, 4, 2])))
    x, lengths = torch.randn(7, 4, FEATURES), torch.tensor([7, 3, 1, 1])
    assert torch.equal(traced(x, lengths), model(x, lengths))
