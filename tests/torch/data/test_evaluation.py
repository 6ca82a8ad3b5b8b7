"""What an evaluation does to the models it is given stays with them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import EvaluationError
from inc_autotune.torch_ext.data.evaluation import isolated
from tests.torch.scenarios.test_user_state import Stateful, state_of
from tests.torch.small_models import OutlierMLP, outlier_mlp, tune, vectors


class ChangesModels:
    """An evaluation that does something to all its models, or to the candidates only."""

    def __init__(self, change, candidates_only: bool) -> None:
        self.change, self.candidates_only, self.calls = change, candidates_only, 0

    def __call__(self, model) -> float:
        self.calls += 1
        if self.calls > 1 or not self.candidates_only:
            self.change(model)
        return 1.0


CHANGES = {
    "frozen": lambda model: model.requires_grad_(False),
    "trained": lambda model: model.train(),
    "run": lambda model: model(vectors()[0]),
    "hooked": lambda model: model.register_forward_hook(lambda *_: None),
    "written": lambda model: model.calls.fill_(7),
    "replaced": lambda model: setattr(model, "linear", nn.Linear(16, 4)),
    "attribute": lambda model: setattr(model, "seen", True),
    "gradients": lambda model: [setattr(each, "grad", torch.zeros_like(each)) for each in model.parameters()],
}


@pytest.mark.parametrize("candidates_only", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_the_users_model_stays_as_it_was(change, candidates_only):
    model = Stateful().eval()
    model.scale = nn.LayerNorm(4).eval()
    before = state_of(model)
    tune(model, vectors(), ChangesModels(CHANGES[change], candidates_only))
    assert state_of(model) == before


def test_the_evaluation_is_given_the_model_itself_first():
    model, seen = outlier_mlp(), []
    tune(model, vectors(), lambda given: float(seen.append(given) is None))
    assert seen[0] is model
    assert all(given is not model for given in seen[1:])


@pytest.mark.parametrize("candidates_only", [False, True])
def test_a_change_of_dtype_is_named_and_reaches_neither_the_user_nor_the_result(candidates_only):
    model = outlier_mlp()
    before = state_of(model)
    with pytest.raises(EvaluationError, match=r"norm.weight is torch.bfloat16, it was torch.float32.*copy.deepcopy"):
        tune(model, vectors(), ChangesModels(lambda given: given.bfloat16(), candidates_only))
    assert state_of(model) == before


def test_what_a_changed_dtype_makes_fail_is_not_the_message():
    def evaluate(model):
        model.double()
        return float(model(vectors()[0]).mean())

    with pytest.raises(EvaluationError, match=r"is torch\.float64") as caught:
        isolated(evaluate, nn.Linear(16, 2))(nn.Linear(16, 2))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("read", [list, lambda steps: (next(steps), steps.close())], ids=["to its end", "closed early"])
def test_dtypes_are_compared_after_an_evaluation_that_yields(read):
    def evaluate(model):
        yield 1.0
        yield 2.0

    model = nn.Linear(2, 2)
    assert list(isolated(evaluate, model)(model)) == [1.0, 2.0]

    def change(model):
        yield from evaluate(model.bfloat16())

    with pytest.raises(EvaluationError, match=r"weight is torch\.bfloat16"):
        read(isolated(change, model)(model))
    assert model.weight.dtype == torch.float32


def test_an_evaluation_may_change_a_copy_of_its_model():
    def evaluate(model):
        return float(copy.deepcopy(model).bfloat16()(vectors()[0].bfloat16()).isfinite().all())

    assert tune(outlier_mlp(), vectors(), evaluate).tuning_result.met


def test_candidates_take_no_memory_for_what_they_share_with_the_model():
    model = outlier_mlp()
    seen = []

    def evaluate(candidate):
        seen.append({name: each.data_ptr() for name, each in candidate.named_parameters()})
        return 1.0

    tune(model, vectors(), evaluate)
    own = {name: each.data_ptr() for name, each in model.named_parameters()}
    assert seen[0] == own
    assert seen[1] == {name: own[name] for name in ("norm.weight", "norm.bias")}


def test_gradients_of_the_result_do_not_reach_the_model():
    model: OutlierMLP = outlier_mlp()
    tuned = tune(model, vectors(), lambda _: 1.0)
    tuned(vectors()[0]).sum().backward()
    assert tuned.norm.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch_ext.convert(tuned).norm.weight.data_ptr() != model.norm.weight.data_ptr()


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("yields", [False, True])
def test_weights_written_in_place_are_noticed(call, yields):
    model, calls = outlier_mlp(), []

    def evaluate(given):
        calls.append(given)
        if len(calls) == call:
            next(iter(dict(given.named_parameters()).values())).data.mul_(1.5)
        return iter([1.0, 1.0]) if yields else 1.0

    with pytest.raises(EvaluationError, match=r"wrote into 'norm\.weight' of the model it was given.*deepcopy"):
        tune(model, vectors(), evaluate)


def test_a_weight_of_every_form_is_looked_at_without_a_copy():
    class Forms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scalar = nn.Parameter(torch.tensor(float("nan")))
            self.turned = nn.Parameter(torch.arange(1000.0).reshape(10, 100).t())
            self.empty = nn.Parameter(torch.zeros(0, 3))
            self.narrow = nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
            self.number = nn.Parameter(torch.ones(5, dtype=torch.int64), requires_grad=False)

    model = Forms()
    assert isolated(lambda _: 1.0, model)(model) == 1.0
    for name in ("turned", "narrow"):
        with pytest.raises(EvaluationError, match=f"wrote into {name!r}"):
            isolated(lambda given, name=name: getattr(given, name).data.add_(1), model)(model)


def test_weights_that_are_replaced_are_put_back_and_not_called_written():
    model = outlier_mlp()
    weight = model.norm.weight

    def evaluate(given):
        given.norm.weight = nn.Parameter(torch.zeros(16))
        return 1.0

    assert isolated(evaluate, model)(model) == 1.0
    assert model.norm.weight is weight
