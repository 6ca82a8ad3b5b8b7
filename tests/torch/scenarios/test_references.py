"""Models that run their modules by other ways than registered attributes."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError
from inc_autotune.torch_ext.modules import is_quantized
from tests.torch.small_models import outlier_mlp, tune, vectors


class Heads(nn.Module):
    """A stem, and two heads that run by whatever `refer` makes of them."""

    def __init__(self, refer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.left, self.right = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        refer(self)

    def both(self, x):
        return torch.cat([self.left(x), self.right(x)], -1)

    def forward(self, x):
        return self.run(torch.relu(self.stem(x)))


def plain_list(model):
    model.heads = [model.left, model.right]
    model.run = functools.partial(run_all, model.heads)


def run_all(heads, x):
    return torch.cat([head(x) for head in heads], -1)


def bound_method(model):
    model.run = model.both


def bound_calls(model):
    model.run = functools.partial(run_all, (model.left.__call__, model.right.__call__))


def unregistered(model):
    object.__setattr__(model, "alias", model.left)
    object.__setattr__(model, "other", model.right)
    model.run = functools.partial(run_aliases, model)


def run_aliases(model, x):
    return torch.cat([model.alias(x), model.other(x)], -1)


def closure(model):
    model.run = lambda x: model.both(x)


def compiled_method(model):
    model.run = torch.compile(model.both, backend="eager")


REPLACED = [plain_list, bound_method, bound_calls, unregistered]
CAPTURED = [closure, compiled_method]


def running(model, x) -> set[str]:
    """Names of the quantized modules that run."""
    called: set[str] = set()
    for name, module in model.named_modules():
        if is_quantized(module):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(x)
    return called


@pytest.mark.parametrize("refer", REPLACED, ids=lambda each: each.__name__)
def test_every_reference_to_an_operator_runs_its_quantized_form(refer, tmp_path):
    outputs = []

    def evaluate(model):
        outputs.append(model(vectors()[0]))
        return 1.0

    model = Heads(refer).eval()
    tuned = tune(model, vectors(), evaluate)
    assert tuned.tuning_result.fallbacks == {}
    quantized = torch_ext.convert(tuned)
    assert running(quantized, vectors()[0]) == {"stem", "left", "right"}
    for name, each in (("tuned", tuned), ("quantized", quantized)):
        torch_ext.save(each, tmp_path / name)
        fresh = Heads(refer)
        nn.init.zeros_(fresh.left.weight)
        loaded = torch_ext.load(tmp_path / name, fresh)
        with torch.no_grad():
            assert torch.equal(loaded(vectors()[1]), each(vectors()[1])), name
    with torch.no_grad():
        assert torch.equal(outputs[1], quantized(vectors()[0]))
        assert 0 < float((outputs[0] - outputs[1]).abs().max()) < 0.1


@pytest.mark.parametrize("refer", CAPTURED, ids=lambda each: each.__name__)
def test_operators_that_copies_cannot_have_stay_in_fp32(refer, tmp_path):
    model = Heads(refer).eval()
    tuned = tune(model, vectors())
    result = tuned.tuning_result
    assert set(result.fallbacks) == {"left", "right"}
    assert all("closure or a compiled method" in reason for reason in result.fallbacks.values())
    assert any("left stays a part of your model" in note for note in result.notes)
    quantized = torch_ext.convert(tuned)
    assert running(quantized, vectors()[0]) == {"stem"}
    with torch.no_grad():
        torch.testing.assert_close(quantized(vectors()[0]), model(vectors()[0]), atol=0.1, rtol=0.1)
    again = torch_ext.apply_recipe(model, result.recipe)
    for each in (tuned, quantized, again):
        with pytest.raises(ArgumentError, match=r"left.*closure or a compiled method"):
            torch_ext.save(each, tmp_path / "folder")


def test_an_operator_compiled_in_place_is_quantized(capfd):
    model = Heads(bound_method).eval()
    expected = model(vectors()[0]).detach()
    for each in (model, model.left):
        each.compile(backend="eager")
    tuned = tune(model, vectors(), lambda candidate: float(candidate(vectors()[0]).isfinite().all()))
    assert tuned.tuning_result.fallbacks == {}
    with torch.no_grad():
        torch.testing.assert_close(torch_ext.convert(tuned)(vectors()[0]), expected, atol=0.1, rtol=0.1)
    assert "recompile" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("place", ["0", "1.inner"])
def test_a_compiled_module_inside_the_model_is_named(place):
    model = nn.Sequential(nn.Linear(16, 16), nn.ModuleDict({"inner": nn.Linear(16, 4)}))
    parent, _, name = place.rpartition(".")
    model.get_submodule(parent)._modules[name] = torch.compile(model.get_submodule(place), backend="eager")
    with pytest.raises(ArgumentError, match=rf"model: {place} is the result of torch.compile.*compile after convert"):
        tune(model.eval(), vectors())


def test_a_copy_that_computes_something_else_is_noted():
    class Registry(nn.Module):
        """Looks up its state outside the model, by identity."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 4)

        def forward(self, x):
            return self.linear(x) * (2.0 if id(self) in KNOWN else 1.0)

    model = Registry().eval()
    KNOWN.add(id(model))
    notes = tune(model, vectors()).tuning_result.notes
    assert any("differ from it in fp32 already, by a relative squared error of 2.5e-01" in note for note in notes)


def test_a_model_that_draws_random_numbers_has_no_such_note():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.generator = nn.Linear(16, 4), torch.Generator()

        def forward(self, x):
            return self.linear(x) + torch.randn(4, generator=self.generator)

    assert tune(Noisy().eval(), vectors()).tuning_result.notes == tune(outlier_mlp(), vectors()).tuning_result.notes


KNOWN: set[int] = set()
