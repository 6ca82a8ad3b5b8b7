"""The contract of every adaptor, kept by the one for the extension."""

from __future__ import annotations

import pytest

import tests.ipex.extension  # noqa: F401  skips this file where there is none
from inc_autotune.core.errors import CapabilityError
from inc_autotune.core.space.capability import load_capability
from inc_autotune.torch_ext.ipex.adaptor import CAPABILITIES, IpexAdaptor
from tests.contract import test_torch
from tests.ipex.small_models import Pooled, output
from tests.torch.small_models import error, image_batches


class TestIpexAdaptor(test_torch.TestTorchAdaptor):
    def make_adaptor(self):
        return IpexAdaptor()


class TestIpexAdaptorOnImages(test_torch.TestTorchAdaptorOnImages):
    def make_adaptor(self):
        return IpexAdaptor()


def test_without_quantized_operators_nothing_is_rounded():
    model, data = Pooled().eval(), image_batches()
    adaptor = IpexAdaptor()
    size = adaptor.calibrate(model, data, (16,))
    candidate = adaptor.quantize({"op": {}, "calib_iteration": size, "recipe_cfgs": {}}, model, None)
    assert error(output(candidate, data[0]), output(model, data[0])) < 1e-10


def test_an_xpu_has_one_scale_for_a_weight():
    for device, granularity in (("cpu", "per_channel"), ("xpu", "per_tensor")):
        options = load_capability(CAPABILITIES[device], "2.8").options("Linear")
        assert {each.weight.granularity for each in options if each.is_quantized} == {granularity}


@pytest.mark.parametrize("dtype", ["int4", "bf16"])
def test_a_type_without_kernels_is_an_error(dtype):
    part = {"scheme": ["sym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    entry = {"weight": {"dtype": [dtype], **part}, "activation": {"dtype": ["uint8"], **part}}
    given = {"bf16": ["Linear"]} if dtype == "bf16" else {dtype: {"static": {"Linear": entry}}}
    with pytest.raises(CapabilityError, match="backend='ipex'"):
        IpexAdaptor(given)
