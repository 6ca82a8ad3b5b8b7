"""Defects of the alpha search in Intel Neural Compressor 2.x and in the autotune of intel-extension-for-pytorch.

Each docstring says what the old system did; each test fails on a system that does the same.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.testing import Scores
from tests.torch.small_models import dtypes, outlier_mlp, tune, vectors

WIDTH = 16

# Which alphas win depends on the bits of the weights.
pytestmark = pytest.mark.usefixtures("eight_bit_weights")


class ThreeInputs(nn.Module):
    """Three Linears on three parts of the input, each of which wants another alpha.

    `even`: the largest weight of a channel is 1 / its largest activation, so every alpha gives the same scale.
    `weights`: one output has large weights, which a high alpha leaves alone.
    `activations`: reads outliers; the middle is best.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.even, self.weights, self.activations = (nn.Linear(WIDTH, 24, bias=False) for _ in range(3))
        with torch.no_grad():
            for linear in (self.even, self.weights, self.activations):
                linear.weight.copy_(torch.rand(24, WIDTH, generator=generator) - 0.5)
            self.even.weight /= self.even.weight.abs().amax(0)
            self.even.weight[:, ::4] /= 16.0
            self.weights.weight[0, ::4] *= 10.0

    def forward(self, x):
        even, weights, activations = x.split(WIDTH, dim=-1)
        return torch.cat([0.3 * self.even(even), self.weights(weights), 0.15 * self.activations(activations)], dim=-1)


def batch(seed: int, *, loud: float = 3.0) -> torch.Tensor:
    """[8, 16, 48]; `loud` is the size of every fourth channel of the part that `weights` reads."""
    x = 2 * torch.rand(8, 16, 3 * WIDTH, generator=torch.Generator().manual_seed(seed)) - 1
    # The part that `even` reads has exact extremes: 1, and 16 in every fourth channel.
    x[0, 0, :WIDTH] = 1.0
    x[..., :WIDTH:4] *= 16.0
    x[..., WIDTH + 1 : 2 * WIDTH : 4] *= loud
    x[..., 2 * WIDTH :: 4] *= 60.0
    return x


def searched(data, **auto_alpha_args) -> dict[str, float]:
    arguments = {"alpha": "auto", "auto_alpha_args": {"alpha_min": 0.1, "alpha_max": 0.9, **auto_alpha_args}}
    return tune(ThreeInputs().eval(), data, smoothquant_args=arguments).tuning_result.alphas


def test_every_batch_decides_the_alpha():
    """The losses were set to zero at each batch, so only the last one decided (defect 1)."""
    loud, quiet = [batch(seed, loud=20.0) for seed in range(7)], batch(7)
    alphas = [searched([*loud[:place], quiet, *loud[place:]], alpha_step=0.4)["weights"] for place in (0, 3, 7)]
    only_quiet = searched([batch(seed) for seed in range(8)], alpha_step=0.4)["weights"]
    assert len(set(alphas)) == 1, "the order of batches does not matter"
    assert alphas[0] != only_quiet, "the last batch alone would have chosen another alpha"


# Alphas whose powers of 16 are exact on every processor: `even` ties at them alone.
@pytest.mark.parametrize("init_alpha", [0.0, 0.5, 1.0])
def test_init_alpha_reaches_the_search(init_alpha):
    """It was put under a key that nobody read, and was 0.5 whatever the user asked for (defect 2)."""
    grid = {"alpha_min": 0.0, "alpha_max": 1.0, "alpha_step": 0.5}
    assert searched([batch(seed) for seed in range(8)], **grid, init_alpha=init_alpha)["even"] == init_alpha


def test_alphas_stay_in_the_range_that_was_asked_for():
    """The initial 0.5 was a candidate as well, and was chosen from outside the range (defect 2)."""
    alphas = searched([batch(seed) for seed in range(8)], alpha_min=0.8, alpha_max=0.9, alpha_step=0.05)
    assert alphas
    assert set(alphas.values()) <= {0.8, 0.85, 0.9}


@pytest.mark.parametrize("folding", [None, False, True])
def test_every_group_has_its_own_alpha(folding):
    """With folding=True and alpha "auto", every group got the alpha of the first one (defect 3)."""
    arguments = {"alpha": "auto", "folding": folding, "auto_alpha_args": {"alpha_step": 0.25}}
    data = [batch(seed) for seed in range(8)]
    result = tune(ThreeInputs().eval(), data, smoothquant_args=arguments).tuning_result
    assert result.alphas["weights"] > result.alphas["activations"] + 0.2
    names = [name for name, _ in result.smoothing]
    assert names[0] == "layer-wise"
    assert "off" in names


@pytest.mark.parametrize("folding", [None, False, True])
def test_each_alpha_of_a_list_makes_another_model(folding):
    """With folding=False, all trials of an alpha list ran with the first alpha of the list (defect 4)."""
    model, data, outputs = ThreeInputs().eval(), [batch(seed) for seed in range(8)], []

    def eval_func(candidate):
        outputs.append(candidate(data[0]).detach())
        return [1.0, 0.1, 0.2, 1.0][len(outputs) - 1]

    tuned = tune(model, data, eval_func, smoothquant_args={"alpha": [0.1, 0.5, 0.9], "folding": folding})
    assert len(outputs) == 4
    assert all(not torch.equal(one, two) for one, two in pairwise(outputs))
    assert set(tuned.tuning_result.alphas.values()) == {0.9}
    for alpha, output in zip((0.1, 0.5, 0.9), outputs[1:], strict=True):
        alone = torch_ext.convert(tune(model, data, smoothquant_args={"alpha": alpha}))
        with torch.no_grad():
            assert torch.equal(alone(data[0]), output)


def test_bounds_and_steps_may_be_integers():
    """`alpha_min=0` raised IndexError, since the digits after its decimal point were counted (defect 5)."""
    alphas = searched([batch(seed) for seed in range(8)], alpha_min=0, alpha_max=1, alpha_step=1)
    assert alphas
    assert set(alphas.values()) <= {0.0, 1.0}


def test_alphas_are_searched_with_a_calibration_function_too():
    """Without a dataloader, "auto" silently became the initial alpha (defect 7)."""
    data = [batch(seed) for seed in range(8)]

    def calib_func(model):
        for each in data:
            model(each)

    arguments = {"alpha": "auto", "auto_alpha_args": {"alpha_min": 0.1, "alpha_max": 0.9, "alpha_step": 0.4}}
    tuned = tune(ThreeInputs().eval(), calib_func=calib_func, smoothquant_args=arguments)
    assert tuned.tuning_result.alphas == searched(data, alpha_step=0.4)
    assert len(set(tuned.tuning_result.alphas.values())) > 1


@pytest.mark.parametrize("keys", [(), ("init_alpha",), ("alpha_min", "alpha_max"), ("enable_blockwise_loss",)])
def test_every_key_is_optional_and_a_dict_can_be_used_twice(keys):
    """`init_alpha` and `enable_blockwise_loss` had to be there, and were removed from the user's own dict."""
    values = {"init_alpha": 0.6, "alpha_min": 0.2, "alpha_max": 0.8, "enable_blockwise_loss": False}
    arguments = {"alpha": "auto", "auto_alpha_args": {key: values[key] for key in keys}}
    before = copy.deepcopy(arguments)
    first, second = (tune(outlier_mlp(), vectors(), smoothquant_args=arguments) for _ in range(2))
    assert arguments == before
    assert first.tuning_result.alphas == second.tuning_result.alphas


def test_rules_by_operator_type_hold():
    """autotune set `op_type_dict = {}` on its first line, so what the user gave had no effect."""
    tuned = tune(outlier_mlp(), vectors(), op_type_dict={"Linear": {"weight": {"algorithm": ["mse"]}}})
    recipe = tuned.tuning_result.recipe
    assert {operator.config.weight.algorithm for operator in recipe.operators.values()} == {"mse"}


def test_the_third_argument_is_the_evaluation():
    """It was the calibration function, so that the old example's evaluation was called and its score thrown away."""
    scores = Scores(1.0)
    tuned = tune(outlier_mlp(), vectors(), scores)
    assert len(scores.models) == 2
    assert tuned.tuning_result.score == 1.0


@pytest.mark.filterwarnings("ignore:the accuracy goal was not met")
def test_there_is_always_a_model():
    """Where no trial met the goal the result was None, after hours of tuning, and `None.save` raised."""
    tuned = tune(outlier_mlp(), vectors(), Scores(1.0, 0.5), smoothquant_args={"alpha": [0.3, 0.6]})
    assert tuned.tuning_result.met is False
    assert "int8" in dtypes(tuned).values()
    assert len(tuned.tuning_result.trials) > 2, "fallback goes on with SmoothQuant, which used to end the search"
