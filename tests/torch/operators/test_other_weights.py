"""Weights that no operator of a known type has are listed, with type, reason and share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.torch_ext.operators.other_weights import other_weights, weights_by_owner

WIDTH = 16

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


class Own(nn.Module):
    """Multiplies by what it makes of parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.gain = nn.Parameter(torch.ones(WIDTH, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kernel.abs()) * self.gain[:, 0, 0]


class OwnForward(nn.MultiheadAttention):
    """Has a forward method of its own."""

    def forward(self, *args: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().forward(*args)


class Last(nn.Module):
    """Some module with a state or a second output, then a Linear of the model's own and a Linear."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.fc = module, nn.Linear(WIDTH, 4)
        self.direct = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        kinds = {nn.MultiheadAttention: 3, nn.Bilinear: 2}
        several = next((count for kind, count in kinds.items() if isinstance(self.module, kind)), 1)
        output = self.module(*[x] * several)
        output = output[0] if isinstance(output, tuple) else output
        return self.fc(F.linear(output, self.direct * 2))


CASES = {
    "attention": (
        lambda: OwnForward(WIDTH, 2, batch_first=True),
        "OwnForward",
        "OwnForward overrides the forward method of MultiheadAttention",
    ),
    "own": (Own, "Own", "Own uses kernel in code of its own"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_listed_with_type_reason_and_share(case: str) -> None:
    make, kind, words = CASES[case]
    torch.manual_seed(0)
    model = Last(make()).eval()
    data = [torch.randn(4, 3, WIDTH) for _ in range(8)]
    result = torch_ext.autotune(model, data, progress=False).tuning_result
    outcomes = {each.name: each for each in result.operators}
    assert (outcomes["module"].type, outcomes["module"].dtype) == (kind, "fp32")
    assert words in outcomes["module"].reason
    weights = sum(each.numel() for each in weights_by_owner(model)["module"].values())
    total = sum(each.numel() for own in weights_by_owner(model).values() for each in own.values())
    assert outcomes["module"].weight_share == pytest.approx(weights / total)
    assert outcomes["direct"].reason.startswith("Last uses direct in code of its own")
    assert sum(result.weight_shares.values()) == pytest.approx(1)
    assert "module" in str(result).splitlines()[1]


def test_a_parametrization_belongs_to_its_module() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    assert set(weights_by_owner(model)) == {"0", "1"}


def test_what_is_known_is_not_listed_again_and_gains_are_no_weights() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ParameterList([torch.zeros(5), torch.zeros(8, 1, 1)])
    )
    assert other_weights(model, {"0"}) == {}


def test_tied_weights_count_once_in_one_form() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    model[1].weight = model[0].weight
    result = torch_ext.autotune(model.eval(), [torch.randn(8, WIDTH) for _ in range(4)], progress=False).tuning_result
    assert result.weight_shares == {"int8": 1.0}


def test_where_there_is_nothing_else_the_message_names_it() -> None:
    model = nn.Sequential(Own())
    with pytest.raises(
        ModelError, match=r"nothing to quantize(.|\n)*0: Own uses kernel in code of its own: .* \(100 %"
    ):
        torch_ext.autotune(model.eval(), [torch.randn(4, 3, WIDTH)], progress=False)


def test_a_saved_model_with_listed_weights_loads(tmp_path) -> None:
    torch.manual_seed(0)
    model = Last(Own()).eval()
    x = torch.randn(4, 3, WIDTH)
    converted = torch_ext.convert(torch_ext.autotune(model, [x], progress=False))
    torch_ext.save(converted, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path, Last(Own()).eval())(x), converted(x))


def test_a_module_that_goes_by_two_names_stands_once() -> None:
    shared = nn.Linear(WIDTH, WIDTH)
    model = nn.ModuleDict({"first": shared, "again": nn.Sequential(nn.ReLU(), shared)})
    assert set(weights_by_owner(model)) == {"first"}
