"""Modules of torch that multiply in code of their own, from `autotune` to what is deployed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import RecipeError
from inc_autotune.torch_ext.model.expanded_form import ExpandedForm
from inc_autotune.torch_ext.model.expansion import expanded_copy
from tests.torch.small_models import error, tune

WIDTH = 16
ALL_INT8 = {"int8": pytest.approx(1.0)}
INT8 = {"weight": {"dtype": ["int8"]}}
FP32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


class PaddedEncoder(nn.Module):
    """torch's encoder, which has a fused path for evaluation, and a padding mask."""

    def __init__(self, nested: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padding))


class Translator(nn.Module):
    """Encoder and decoder, sequence first: self-attention with a causal mask, and cross attention."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Transformer(WIDTH, 2, 1, 1, 32, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.model(source, target, tgt_mask=mask, tgt_is_causal=True)


class Cross(nn.Module):
    """Cross attention with keys and values of their own widths, and its weights as second output."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            WIDTH, 2, kdim=8, vdim=12, add_bias_kv=True, add_zero_attn=True, batch_first=True
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention(query, key, value)


class Twice(nn.Module):
    """One attention under two names, called twice, and another that shares its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.again = nn.ModuleList([self.first])
        self.tied = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.tied.in_proj_weight = self.first.in_proj_weight

    def forward(self, x: Tensor) -> Tensor:
        for attention in (self.first, self.again[0], self.tied):
            x = x + attention(x, x, x, need_weights=False)[0]
        return x


class Tagger(nn.Module):
    """Cells of every kind over a sequence, and a bilinear form of what two of them make."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(WIDTH, WIDTH), nn.GRUCell(WIDTH, WIDTH), nn.RNNCell(WIDTH, WIDTH)
        self.bilinear = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        state, hidden, outputs = None, None, []
        for step in x.unbind(1):
            state = self.lstm(step, state)
            hidden = self.gru(state[0], hidden)
            outputs.append(self.bilinear(hidden, self.rnn(hidden)))
        return torch.stack(outputs, 1)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def samples(*sizes: int, count: int = 6, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, *sizes, generator=generator) for _ in range(count)]


def padded() -> list[tuple[Tensor, ...]]:
    lengths = torch.tensor([[6], [4], [3], [5]])
    return [(x, torch.arange(6) >= lengths) for x in samples(6, WIDTH)]


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Any]], int]] = {
    "encoder": (PaddedEncoder, padded, 13),
    "transformer": (Translator, lambda: list(zip(samples(5, WIDTH), samples(4, WIDTH, seed=2), strict=True)), 16),
    "cross": (Cross, lambda: list(zip(samples(3, WIDTH), samples(5, 8), samples(5, 12), strict=True)), 4),
    "twice": (Twice, lambda: [(x,) for x in samples(5, WIDTH)], 8),
    "tagger": (Tagger, lambda: [(x,) for x in samples(4, WIDTH)], 7),
    "root": (
        lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True),
        lambda: [(x, x.clone(), x.clone()) for x in samples(5, WIDTH)],
        4,
    ),
}


def quality(model: nn.Module, reference: nn.Module, batch: tuple[Any, ...]) -> float:
    """Signal over noise of the first output, in dB."""
    with torch.no_grad():
        return -10 * math.log10(max(error(model(*batch), reference(*batch)), 1e-30))


@pytest.mark.parametrize("way", ["static", "dynamic", "smoothed"])
@pytest.mark.parametrize("case", CASES)
def test_every_product_is_int8_from_tuning_to_what_is_loaded(case: str, way: str, tmp_path: Path) -> None:
    make, batches, operators = CASES[case]
    model, data = seeded(make), batches()
    smoothing = {"smoothquant_args": {"alpha": 0.5}} if way == "smoothed" else {}
    tuned = tune(model, data, approach="dynamic" if way == "dynamic" else "static", **smoothing)
    result = tuned.tuning_result
    assert (len(result.operators), result.weight_shares) == (operators, ALL_INT8)
    converted = torch_ext.convert(tuned)
    assert quality(converted, model, data[0]) > 25
    assert quality(converted, tuned, data[0]) > 60
    replayed = torch_ext.convert(torch_ext.apply_recipe(model, result.recipe))
    torch_ext.save(converted, tmp_path)
    loaded = torch_ext.load(tmp_path, seeded(make))
    with torch.no_grad():
        expected = converted(*data[1])
        traced = torch.jit.freeze(torch.jit.trace(converted, data[0], check_trace=False))
        for form in (replayed, loaded):
            torch.testing.assert_close(form(*data[1]), expected, atol=0, rtol=0)
        torch.testing.assert_close(traced(*data[1]), expected, atol=1e-5, rtol=1e-4)
    if way == "static":  # exporting takes most of the time, and what is exported are the same operators
        exported = torch.export.export(converted, data[0]).module()
        assert quality(exported, converted, data[1]) > 40


def test_names_units_and_types_of_an_encoder() -> None:
    model, data = seeded(PaddedEncoder), padded()
    tuned = tune(model, data, lambda candidate: 1.0)
    result = tuned.tuning_result
    layer = "encoder.layers.1.self_attn"
    units = {unit for trial in result.trials for unit in trial.assignment.by_unit}
    assert {f"{layer}.q_proj", f"{layer}.out_proj"} <= units
    assert not {f"{layer}.k_proj", f"{layer}.v_proj"} & units
    converted = torch_ext.convert(tuned)
    attention = converted.encoder.layers[1].self_attn
    assert isinstance(attention, nn.MultiheadAttention)
    assert attention.in_proj_weight.shape == (3 * WIDTH, WIDTH)
    assert "encoder.layers.1.self_attn.q_proj.integer_weight" in converted.state_dict()
    assert torch.equal(
        tuned.encoder.layers[0].self_attn.in_proj_weight, model.encoder.layers[0].self_attn.in_proj_weight
    )
    assert isinstance(model.encoder.layers[0].self_attn.in_proj_weight, nn.Parameter)


def test_attention_that_stays_in_fp32_is_torchs_own_again(tmp_path: Path) -> None:
    model, data = seeded(lambda: PaddedEncoder(nested=False)), padded()
    tuned = tune(model, data, op_name_dict={r".*layers\.0\.self_attn.*": FP32})
    reasons = {each.name: each.reason for each in tuned.tuning_result.operators}
    assert "ruled out" in reasons["encoder.layers.0.self_attn.q_proj"]
    converted = torch_ext.convert(tuned)
    torch_ext.save(converted, tmp_path)
    replayed = torch_ext.apply_recipe(model, tuned.tuning_result.recipe)
    for form in (tuned, converted, replayed, torch_ext.load(tmp_path, PaddedEncoder(nested=False))):
        first, second = (layer.self_attn for layer in form.encoder.layers)
        assert type(first) is nn.MultiheadAttention
        assert isinstance(second, ExpandedForm)
        assert "encoder.layers.0.self_attn.in_proj_weight" in form.state_dict()


def test_an_encoder_that_stays_in_fp32_keeps_its_fused_path(tmp_path: Path) -> None:
    model, data = seeded(PaddedEncoder), padded()
    tuned = tune(model, data, op_name_dict={"encoder.*": FP32})
    torch_ext.save(tuned, tmp_path)
    for form in (tuned, torch_ext.convert(tuned), torch_ext.load(tmp_path, seeded(PaddedEncoder))):
        assert type(form.encoder) is nn.TransformerEncoder
        assert form.encoder.use_nested_tensor
        assert all(layer.activation_relu_or_gelu for layer in form.encoder.layers)
        assert quality(form, model, data[0]) > 25


def test_one_layer_in_int8_takes_the_fused_path_from_its_encoder_alone() -> None:
    model = seeded(lambda: nn.ModuleList([PaddedEncoder(), PaddedEncoder()]))
    replaced = expanded_copy(model, ["0.encoder.layers.1.linear2"])
    assert [each.encoder.use_nested_tensor for each in replaced] == [False, True]
    assert [[layer.activation_relu_or_gelu for layer in each.encoder.layers] for each in replaced] == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"op_name_dict": {r"encoder\.layers\.0\.self_attn": FP32}}, {"0.self_attn"}),
        ({"op_name_dict": {".*self_attn": FP32, ".*1.self_attn.q_proj": INT8}}, {"0.self_attn", "1.self_attn"}),
        ({"op_type_dict": {"MultiheadAttention": FP32}}, {"0.self_attn", "1.self_attn"}),
        ({"op_type_dict": {"Multi.*|Linear": FP32}, "op_name_dict": {"head": INT8}}, {"0", "1"}),
        ({"op_type_dict": {"MultiheadAttention": FP32}, "op_name_dict": {".*self_attn": INT8}}, set()),
    ],
)
def test_rules_for_attention_hold_for_its_projections(
    rules: dict[str, Any], kept: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    result = tune(seeded(PaddedEncoder), padded(), **rules).tuning_result
    names = [each.name for each in result.operators if each.dtype == "fp32"]
    assert all(any(name.startswith(f"encoder.layers.{each}") for each in kept) for name in names)
    expected = {"0.self_attn": 4, "1.self_attn": 4, "0": 6, "1": 6}
    named_by_itself = ".*1.self_attn.q_proj" in rules.get("op_name_dict", {})
    assert len(names) == sum(expected[each] for each in kept) - named_by_itself
    assert "matches no operator" not in caplog.text


def test_tied_weights_stay_tied_and_are_counted_once() -> None:
    tuned = tune(seeded(Twice), [(x,) for x in samples(5, WIDTH)])
    assert tuned.first.q_proj.weight is tuned.tied.q_proj.weight
    assert tuned.again[0] is tuned.first


class Picky(nn.Module):
    """Asks for the very class, as `isinstance` need not."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        if type(self.attention) is nn.MultiheadAttention:
            x = self.attention(x, x, x)[0]
        return self.head(x)


@pytest.mark.parametrize("by_function", [False, True])
def test_a_model_that_bears_no_expansion_is_tuned_without(by_function: bool) -> None:
    model, data = seeded(Picky), samples(5, WIDTH)
    given: dict[str, Any] = {"data": data}
    if by_function:
        given = {"calib_func": lambda candidate: [candidate(x) for x in data]}
    tuned = tune(model, **given)
    reasons = {each.name: each.reason for each in tuned.tuning_result.operators}
    assert "if its products are taken out of it" in reasons["attention"]
    assert not reasons["head"]
    assert quality(torch_ext.convert(tuned), model, (data[0],)) > 25


@pytest.mark.parametrize("case", ["encoder", "root"])
def test_a_calibration_function_shows_the_products_too(case: str) -> None:
    make, batches, operators = CASES[case]
    model, data = seeded(make), batches()
    tuned = tune(model, calib_func=lambda candidate: [candidate(*batch) for batch in data])
    assert tuned.tuning_result.weight_shares == ALL_INT8
    assert len(tuned.tuning_result.operators) == operators
    assert quality(torch_ext.convert(tuned), model, data[0]) > 25


def test_a_recipe_of_another_model_is_refused() -> None:
    recipe = tune(seeded(PaddedEncoder), padded()).tuning_result.recipe
    with pytest.raises(RecipeError, match="self_attn"):
        torch_ext.apply_recipe(seeded(Picky), recipe)


def test_the_tuned_model_can_be_trained() -> None:
    model, data = seeded(Twice), [(x,) for x in samples(5, WIDTH)]
    tuned = tune(model, data).train()
    tuned(*data[0]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in tuned.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
