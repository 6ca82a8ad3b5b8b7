"""Networks that make images larger: every weight of them in integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from tests.torch.small_models import dtypes, error, tune


class SmallUNet(nn.Module):
    """Up by a transposed convolution with BatchNorm, in groups, and by one that is told the size to reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.bottom = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.up, self.norm = (
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(16),
        )
        self.last_up = nn.ConvTranspose2d(32, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(16, 2, 1)
        for each in (self.norm.running_mean, self.norm.bias):
            nn.init.normal_(each, std=0.3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        large = torch.relu(self.first(x))
        middle = torch.relu(self.down(large))
        y = torch.relu(self.norm(self.up(torch.relu(self.bottom(middle)))))
        y = self.last_up(torch.cat([y, middle], 1), output_size=large.shape[2:])
        return self.head(torch.cat([torch.relu(y), large], 1))


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(4, 3, 16, 16) for _ in range(4)]


@pytest.fixture(scope="module")
def tuned(images):
    return tune(SmallUNet().eval(), images)


def test_every_weight_is_int8(tuned, images):
    assert set(dtypes(tuned).values()) == {"int8"}
    assert not tuned.tuning_result.fallbacks
    assert not [each for each in tuned.tuning_result.operators if each.simulated]
    quantized = torch_ext.convert(tuned)
    assert isinstance(quantized.up, nn.ConvTranspose2d)
    with torch.no_grad():
        assert error(quantized(images[0]), SmallUNet().eval()(images[0])) < 2e-3
        assert error(quantized(images[0]), tuned(images[0])) < 1e-5
        traced = torch.jit.freeze(torch.jit.trace(quantized, images[0]))
        assert torch.equal(traced(images[1]), quantized(images[1]))


def test_they_are_saved_and_made_again(tuned, images, tmp_path):
    quantized, recipe = torch_ext.convert(tuned), tuned.tuning_result.recipe
    torch_ext.save(quantized, tmp_path)
    loaded = torch_ext.load(tmp_path, SmallUNet())
    again = torch_ext.convert(torch_ext.apply_recipe(SmallUNet().eval(), recipe))
    with torch.no_grad():
        assert torch.equal(loaded(images[0]), quantized(images[0]))
        assert torch.equal(again(images[0]), quantized(images[0]))


def test_their_batch_norms_are_folded(tuned):
    assert isinstance(torch_ext.convert(tuned).norm, nn.Identity)


def test_they_may_stay_in_fp32(images):
    rules = {"ConvTranspose2d": {"weight": {"dtype": ["fp32"]}}}
    kept = dtypes(tune(SmallUNet().eval(), images, op_type_dict=rules))
    assert {name for name, dtype in kept.items() if dtype == "fp32"} == {"up", "last_up"}
