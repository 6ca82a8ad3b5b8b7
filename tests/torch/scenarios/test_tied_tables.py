"""A head and the table that it is tied to, as one set of integers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.modules import WeightOnlyEmbedding, WeightOnlyLinear

WORDS, WIDTH = 96, 64

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


class Language(nn.Module):
    """A table, a layer and a head with the weight of the table."""

    def __init__(self, is_tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WORDS)
        if is_tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.head(x + torch.tanh(self.layer(x)))


@pytest.fixture(scope="module")
def data() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randint(WORDS, (4, 16)) for _ in range(8)]


def rules(**weight: str) -> dict[str, dict[str, dict[str, list[str]]]]:
    return {name: {"weight": {key: [value] for key, value in weight.items()}} for name in ("Linear", "Embedding")}


def tune(model: nn.Module, data: list[Tensor], **arguments) -> nn.Module:
    return torch_ext.autotune(model, data, approach="weight_only", progress=False, **arguments)


def stored_bytes(model: nn.Module) -> int:
    return sum({id(each): each.nbytes for each in model.state_dict(keep_vars=True).values()}.values())


@pytest.mark.parametrize(
    "weight",
    [
        {"dtype": "int8"},
        {"dtype": "int4"},
        {"dtype": "int4", "scheme": "asym", "granularity": "per_group_64"},
        {"dtype": "int4", "granularity": "per_channel"},
    ],
    ids=lambda weight: " ".join(weight.values()),
)
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_integers_are_stored_once_wherever_the_model_goes(weight, alpha, data, tmp_path):
    model = Language().eval()
    smoothing = {"recipes": {"smooth_quant": False}} if alpha is None else {"smoothquant_args": {"alpha": alpha}}
    tuned = tune(model, data, op_type_dict=rules(**weight), **smoothing)
    converted = torch_ext.convert(tuned)
    with torch.no_grad():
        expected = converted(data[0])
        assert signal_to_noise_db(tuned(data[0]), expected) > 35
        assert signal_to_noise_db(model(data[0]), expected) > (12 if weight["dtype"] == "int4" else 33)
        torch_ext.save(converted, tmp_path / "converted")
        torch_ext.save(tuned, tmp_path / "tuned")
        others = {
            "as it is": converted,
            "copied": copy.deepcopy(converted),
            "loaded": torch_ext.load(tmp_path / "converted", Language().eval()),
            "loaded untied": torch_ext.load(tmp_path / "converted", Language(is_tied=False).eval()),
            "tuned, loaded": torch_ext.convert(torch_ext.load(tmp_path / "tuned", Language().eval())),
            "by recipe": torch_ext.convert(torch_ext.apply_recipe(model, tuned.tuning_result.recipe)),
        }
        for other in others.values():
            assert isinstance(other.table, WeightOnlyEmbedding)
            assert isinstance(other.head, WeightOnlyLinear)
            assert other.table.integer_weight is other.head.integer_weight
            assert (other.head.smoothing is None) == (alpha is None)
            assert torch.equal(other.table.weight, other.head.weight)
            assert torch.equal(other(data[0]), expected)
            assert stored_bytes(other) == stored_bytes(converted)
    size = (tmp_path / "converted" / "model.safetensors").stat().st_size
    assert size < stored_bytes(converted) + 4000


def test_a_tied_head_is_rounded_by_second_moments_and_the_table_with_it(data):
    tuned = tune(
        Language().eval(), data, op_type_dict=rules(dtype="int4"), recipes={"weight_rounding": "second_moment"}
    )
    outcomes = {each.name: each for each in tuned.tuning_result.operators}
    assert outcomes["head"].rounding_reason is None
    converted = torch_ext.convert(tuned)
    assert converted.table.integer_weight is converted.head.integer_weight
    nearest = tune(Language().eval(), data, op_type_dict=rules(dtype="int4"), recipes={"weight_rounding": "nearest"})
    assert not torch.equal(torch_ext.convert(nearest).head.integer_weight, converted.head.integer_weight)


def test_forms_that_differ_are_stored_apart(data, tmp_path):
    rule = {"Linear": {"weight": {"dtype": ["int4"]}}, "Embedding": {"weight": {"dtype": ["uint8"]}}}
    converted = torch_ext.convert(tune(Language().eval(), data, op_type_dict=rule))
    assert converted.table.weight.shape == converted.head.weight.shape
    assert not isinstance(converted.table, WeightOnlyEmbedding)
    torch_ext.save(converted, tmp_path)
    with torch.no_grad():
        assert torch.equal(torch_ext.load(tmp_path, Language().eval())(data[0]), converted(data[0]))


@pytest.mark.parametrize("weight", [{"dtype": "int4", "granularity": "per_group_32"}, {"dtype": "int4"}])
def test_a_table_alone_has_groups_too(weight, data):
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.layer = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 8)

        def forward(self, ids: Tensor) -> Tensor:
            return self.layer(self.table(ids))

    model = Alone().eval()
    tuned = tune(model, data, op_type_dict={"Embedding": {"weight": {key: [value] for key, value in weight.items()}}})
    converted = torch_ext.convert(tuned)
    assert isinstance(converted.table, WeightOnlyEmbedding)
    assert converted.table.weight_scale.shape[1] == (2 if "granularity" in weight else 1)
    with torch.no_grad():
        assert torch.equal(converted.table(data[0]), tuned.table(data[0]))
        assert converted.table(data[0][0, 0]).shape == (WIDTH,)
        assert converted.table(data[0][:0]).shape == (0, 16, WIDTH)
        traced = torch.jit.trace(converted, data[0])
        assert torch.equal(traced(data[1][:2]), converted(data[1][:2]))
        program = torch.export.export(converted, (data[0],)).module()
        assert signal_to_noise_db(converted(data[0]), program(data[0])) > 35
