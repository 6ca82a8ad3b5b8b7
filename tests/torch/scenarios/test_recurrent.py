"""Models with recurrent layers, from autotune to the deployed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from inc_autotune import torch_ext
from inc_autotune.core.errors import CapabilityError
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.torch_ext.operators.trace import trace_model
from inc_autotune.torch_ext.target import kernels
from tests.torch.small_models import error, tune

FEATURES, HIDDEN, CLASSES = 12, 24, 5


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


class Tagger(nn.Module):
    """Flattens its weights before every call, as programs for GPUs do."""

    def __init__(self, kind: str = "LSTM", **arguments) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = getattr(nn, kind)(FEATURES, HIDDEN, batch_first=True, **arguments)
        directions = 2 if self.rnn.bidirectional else 1
        self.head = nn.Linear((self.rnn.proj_size or HIDDEN) * directions, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.rnn.flatten_parameters()
        return self.head(self.rnn(x)[0])


class Classifier(nn.Module):
    """Packs sequences of several lengths, begins with a state of its own and reads the last one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(FEATURES, HIDDEN, num_layers=2, bidirectional=True)
        self.first = nn.Parameter(torch.randn(4, 1, HIDDEN))
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, last = self.rnn(packed, hx=self.first.expand(-1, len(x), -1).contiguous())
        padded, _ = pad_packed_sequence(output, batch_first=True)
        return self.head(last[-1] + padded[:, 0, :HIDDEN])


def sequences(count: int = 4, size: int = 4, length: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, length, FEATURES, generator=generator) for _ in range(count)]


def with_lengths() -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.tensor([7, 3, 5, 1])) for x in sequences()]


def forms(model: nn.Module) -> dict[str, tuple[str, str | None]]:
    return {each.name: (each.dtype, each.approach) for each in model.tuning_result.operators}


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_everything_quantized_means_a_dynamic_recurrent_layer(kind, tmp_path):
    model, x = Tagger(kind, num_layers=2, bidirectional=True).eval(), sequences()[0]
    tuned = tune(model, sequences())
    assert forms(tuned) == {"rnn": ("int8", "dynamic"), "head": ("int8", "static")}
    assert tuned.tuning_result.weight_shares == {"int8": 1.0}
    converted = torch_ext.convert(tuned)
    assert error(converted(x), model(x)) < 1e-3
    assert error(converted(x), tuned(x)) < 1e-5
    torch_ext.save(converted, tmp_path)
    loaded = torch_ext.load(tmp_path, Tagger(kind, num_layers=2, bidirectional=True))
    assert torch.equal(loaded(x), converted(x))
    tuned.tuning_result.recipe.save(tmp_path / "again.yaml")
    again = torch_ext.apply_recipe(model, Recipe.load(tmp_path / "again.yaml"))
    assert torch.equal(again(x), tuned(x))
    assert torch.equal(torch_ext.convert(again)(x), converted(x))


def test_a_layer_called_by_keywords():
    class ByKeyword(Tagger):
        def forward(self, x):
            hx = x.new_zeros(1, len(x), HIDDEN)
            return self.head(self.rnn(hx=(hx, hx), input=x)[0])

    model, x = ByKeyword().eval(), sequences()[0]
    tuned = tune(model, sequences())
    assert forms(tuned)["rnn"] == ("int8", "dynamic")
    assert error(torch_ext.convert(tuned)(x), model(x)) < 1e-3


def test_a_projection_is_quantized_too():
    model = Tagger(proj_size=6).eval()
    tuned = tune(model, sequences())
    assert tuned.tuning_result.weight_shares == {"int8": 1.0}
    assert error(torch_ext.convert(tuned)(sequences()[0]), model(sequences()[0])) < 1e-3


def test_packed_sequences_and_a_state_of_the_model(tmp_path):
    model, (x, lengths) = Classifier().eval(), with_lengths()[0]
    tuned = tune(model, with_lengths())
    assert forms(tuned)["rnn"] == ("int8", "dynamic")
    converted = torch_ext.convert(tuned)
    assert error(converted(x, lengths), model(x, lengths)) < 1e-3
    other = x[:2, :4], torch.tensor([2, 4])
    assert error(converted(*other), model(*other)) < 1e-3
    torch_ext.save(converted, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path, Classifier())(x, lengths), converted(x, lengths))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_only_the_weights(kind):
    model, x = Tagger(kind).eval(), sequences()[0]
    tuned = tune(model, sequences(), approach="weight_only")
    assert forms(tuned)["rnn"] == ("int8", "weight_only")
    converted = torch_ext.convert(tuned)
    assert error(converted(x), model(x)) < 1e-4
    assert converted.rnn.ih_l0.integer_weight.dtype == torch.int8


def test_size_counts_integers():
    model = Tagger(num_layers=2).eval()
    result = tune(model, sequences(), objective="modelsize").tuning_result
    assert result.weight_shares == {"int8": 1.0}
    assert result.size_ratio > 2


def test_static_is_no_option():
    result = tune(Tagger().eval(), sequences(), approach="static").tuning_result
    assert result.fallbacks["rnn"].endswith("it can be dynamic or weight_only")
    with pytest.raises(CapabilityError, match=r"quant_mode 'static'(.|\n)*dynamic"):
        tune(Tagger().eval(), sequences(), op_type_dict={"LSTM": {"activation": {"quant_mode": ["static"]}}})


def test_a_capability_with_a_static_layer_is_an_error():
    one = {"scheme": ["sym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    gru = {"weight": {"dtype": ["int8"], **one}, "activation": {"dtype": ["uint8"], **one}}
    static = {"int8": {"static": {"GRU": gru}}}
    with pytest.raises(CapabilityError, match=r"static GRU: the hidden state"):
        tune(Tagger("GRU").eval(), sequences(), capability=static)


def test_an_lstm_in_bf16(tmp_path):
    bf16 = {"weight": {"dtype": ["bf16"]}, "activation": {"dtype": ["bf16"]}}
    capability = {"bf16": ["LSTM"]}
    model, x = Tagger(num_layers=2).eval(), sequences()[0]
    if not kernels.has_bf16():
        pytest.skip("this processor has no bf16")
    tuned = tune(model, sequences(), op_type_dict={"LSTM": bf16}, capability=capability, excluded_precisions=[])
    assert forms(tuned) == {"rnn": ("bf16", None), "head": ("int8", "static")}
    converted = torch_ext.convert(tuned)
    assert error(converted(x), model(x)) < 1e-3
    torch_ext.save(converted, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path, Tagger(num_layers=2))(x), converted(x))


def test_rules_by_type_and_name():
    fp32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
    assert forms(tune(Tagger().eval(), sequences(), op_type_dict={"LSTM": fp32}))["rnn"] == ("fp32", None)
    weights = {"activation": {"quant_mode": ["weight_only"]}}
    assert forms(tune(Tagger().eval(), sequences(), op_name_dict={"rnn": weights}))["rnn"] == ("int8", "weight_only")


def test_a_layer_that_is_not_plain_stays_with_its_reason():
    class Shifted(nn.LSTM):
        def forward(self, x, hx=None):
            output, state = super().forward(x, hx)
            return output + 1, state

    model = Tagger().eval()
    model.rnn.__class__ = Shifted
    assert "is not a plain LSTM" in tune(model, sequences()).tuning_result.fallbacks["rnn"]


def test_a_weight_that_is_computed_is_quantized():
    model = Tagger().eval()
    torch.nn.utils.parametrizations.weight_norm(model.rnn, "weight_hh_l0").eval()
    tuned = tune(model, sequences())
    assert forms(tuned)["rnn"] == ("int8", "dynamic")
    assert error(torch_ext.convert(tuned)(sequences()[0]), model(sequences()[0])) < 1e-3


def test_weights_read_by_somebody_else_stay():
    class Regularized(Tagger):
        def forward(self, x):
            return super().forward(x) + self.rnn.weight_hh_l0.square().mean()

    trace = trace_model(Regularized().eval(), (sequences()[0],))
    assert "its weight is read outside the module" in trace.skipped["rnn"]


def test_harmful_units_fall_back_one_by_one():
    model = Tagger().eval()
    tuned = tune(model, sequences(), eval_func=lambda m: 0.5 if "Quantized" in repr(m.rnn) else 1.0)
    assert tuned.tuning_result.met
    assert forms(tuned)["rnn"][0] == "fp32"
    assert forms(tuned)["head"][0] == "int8"


@pytest.mark.parametrize("strategy", ["hawq_v2", "mse_v2"])
def test_harm_is_measured_in_packed_sequences_too(strategy):
    tuned = tune(
        Classifier().eval(), with_lengths(), lambda model: float("Quantized" not in repr(model.rnn)), strategy=strategy
    )
    harms = {harm.unit: harm.error for harm in tuned.tuning_result.harms}
    assert 0 < harms["rnn"] < 1e-3


def test_a_model_that_is_one_layer():
    model = nn.LSTM(FEATURES, HIDDEN).eval()
    data = [x.transpose(0, 1) for x in sequences()]
    tuned = tune(model, data)
    converted = torch_ext.convert(tuned)
    output, (hidden, cell) = converted(data[0])
    assert error(output, model(data[0])[0]) < 1e-3
    assert hidden.shape == cell.shape == (1, 4, HIDDEN)
