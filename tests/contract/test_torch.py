"""The contract of every adaptor, kept by the one for PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from inc_autotune import torch_ext  # noqa: E402
from inc_autotune.testing import AdaptorContract, AutotuneContract  # noqa: E402
from inc_autotune.torch_ext.adaptor import TorchAdaptor  # noqa: E402
from tests.torch.small_models import fix_speeds  # noqa: E402

FEATURES = 16


@pytest.fixture(autouse=True, scope="module")
def speed_decides_nothing():
    with pytest.MonkeyPatch.context() as patch:
        fix_speeds(patch)
        yield


class TestTorchAdaptor(AdaptorContract):
    """On Linears whose input has an outlier channel."""

    def make_adaptor(self):
        return TorchAdaptor()

    def make_model(self):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.LayerNorm(FEATURES), nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)
        )
        with torch.no_grad():
            model[0].weight[3], model[1].weight[:, 3] = 20.0, model[1].weight[:, 3] / 20.0
        return model.eval()

    def make_data(self):
        return list(torch.randn(4, 8, FEATURES, generator=torch.Generator().manual_seed(1)))

    def outputs(self, model):
        with torch.no_grad():
            return np.asarray(model(torch.randn(32, FEATURES, generator=torch.Generator().manual_seed(2))))


class TestTorchAdaptorOnImages(TestTorchAdaptor):
    """On convolutions with BatchNorm, which are folded."""

    def make_model(self):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 36, 8),
        )
        with torch.no_grad():
            model(torch.randn(16, 3, 8, 8) * 3 + 1)
        return model.eval()

    def make_data(self):
        return list(torch.randn(4, 8, 3, 8, 8, generator=torch.Generator().manual_seed(1)))

    def outputs(self, model):
        with torch.no_grad():
            return np.asarray(model(torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(2))))


class TestAutotune(AutotuneContract):
    """On the model of `TestTorchAdaptor`."""

    make_model = TestTorchAdaptor.make_model
    make_data = TestTorchAdaptor.make_data
    outputs = TestTorchAdaptor.outputs

    def tune(self, model, data, evaluate=None, labelled=None, **arguments):
        return torch_ext.autotune(model, data, evaluate, eval_dataloader=labelled, **arguments)

    def deployed(self, tuned):
        return torch_ext.convert(tuned)

    def in_fp32(self, model):
        return model

    def labelled(self, model):
        with torch.no_grad():
            return [(batch, model(batch).argmax(-1)) for batch in self.make_data()]


def test_a_dynamic_operator_is_smoothed_by_the_samples_of_its_own_size():
    """Candidates keep the modules they have in common; one without a range may still differ in its smoothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    data = [torch.randn(8, 8), 50 * torch.randn(8, 8)]
    adaptor = TorchAdaptor()
    adaptor.calibrate(model, data, (8, 16))
    opwise = adaptor.query_fw_capability(model)["opwise"]
    dynamic = {
        operator: {**next(each for each in options if each["activation"].get("quant_mode") == "dynamic"), "alpha": 0.5}
        for operator, options in opwise.items()
    }
    small, large = (
        adaptor.quantize({"op": dynamic, "calib_iteration": size, "recipe_cfgs": {}}, model, None) for size in (8, 16)
    )
    assert not torch.equal(small[0].smoothing, large[0].smoothing)
