"""What the first calibration batch shows need not hold for the others, in data and in functions.

The outputs of tuned models are compared on the batches that they were calibrated on, which no range clips.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.calibration import collect
from tests.torch.small_models import decibels

CLOSE = 25
"""Decibels; a fact of the first batch that is wrong for another one leaves 1 to 10."""

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


class Attention(nn.Module):
    """Keys and values come from the context where there is one."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x, context=None):
        context = x if context is None else context
        return self.o(F.scaled_dot_product_attention(self.q(x), self.k(context) / 30, self.v(context)))


class Convolutions(nn.Module):
    """The outputs of the convolution, and of its BatchNorm, are read raw where the second input says so."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
        self.norm.running_mean.copy_(normal(8))
        self.norm.running_var.copy_(normal(8).square() + 0.5)

    def forward(self, x, raw="none"):
        y = self.first(x)
        z = self.norm(y)
        result = self.last(F.relu(z))
        extra = {"none": None, "norm": y, "relu": z}[raw]
        return result if extra is None else result + extra.mean(1, keepdim=True)[..., 1:-1, 1:-1]


class Experts(nn.Module):
    """The first feature's sign chooses the expert."""

    def __init__(self):
        super().__init__()
        self.first, self.experts = nn.Linear(16, 32), nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.last = nn.Linear(32, 8)

    def forward(self, x):
        hidden, chosen = torch.relu(self.first(x)), (x[:, 0] > 0).long()
        result = torch.zeros_like(hidden)
        for index, expert in enumerate(self.experts):
            if (chosen == index).any():
                result[chosen == index] = expert(hidden[chosen == index])
        return self.last(result)


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x, keyword=False):
        hidden = torch.relu(self.first(x))
        return self.last(input=hidden) if keyword else self.last(hidden)


def contexts(*given):
    return [
        {"x": normal(4, 10, 32), "context": 20 * normal(4, 6, 32)} if each else {"x": normal(4, 10, 32)}
        for each in given
    ]


def images(*raw):
    return [{"x": normal(4, 3, 12, 12), "raw": each} for each in raw]


def routed(*experts):
    """Batches for the first expert, the second, or, as 2, both."""
    items = []
    for each in experts:
        item = normal(16, 16)
        if each < 2:
            item[:, 0] = item[:, 0].abs() if each else -item[:, 0].abs()
        items.append(item)
    return items


def tune(model, data, by_function):
    if not by_function:
        return torch_ext.autotune(model, data, progress=False)

    def calib_func(watched):
        for item in data:
            watched(**item) if isinstance(item, dict) else watched(item)

    return torch_ext.autotune(model, calib_func=calib_func, progress=False)


def closeness(model, tuned, data):
    """Decibels of the worst batch."""
    converted, found = torch_ext.convert(tuned), []
    for item in data:
        args, kwargs = ((), item) if isinstance(item, dict) else ((item,), {})
        with torch.no_grad():
            found.append(decibels(model(*args, **kwargs), converted(*args, **kwargs)))
    return min(found)


@pytest.mark.parametrize("by_function", [False, True], ids=["loader", "function"])
@pytest.mark.parametrize("given", [(0, 1, 0, 1, 0, 1), (0, 0, 0, 0, 0, 1), (0, 1, 1, 1)])
def test_operators_that_read_two_tensors_later_share_no_range(by_function, given):
    model = Attention().eval()
    data = contexts(*given)
    tuned = tune(model, data, by_function)
    # The others are 20 times smaller than what keys and values have to bear.
    assert closeness(model, tuned, [item for item in data if "context" in item]) > CLOSE
    assert any("'q', 'k', 'v': read different tensors" in note for note in tuned.tuning_result.notes)


@pytest.mark.parametrize("by_function", [False, True], ids=["loader", "function"])
@pytest.mark.parametrize(("raw", "note"), [("norm", "'first': not joined with"), ("relu", "'first': output not read")])
def test_an_output_that_is_read_raw_later_is_kept(by_function, raw, note):
    model = Convolutions().eval()
    data = images("none", "none", raw, "none", raw)
    tuned = tune(model, data, by_function)
    assert closeness(model, tuned, data) > CLOSE
    assert any(note in each for each in tuned.tuning_result.notes)


@pytest.mark.parametrize("by_function", [False, True], ids=["loader", "function"])
@pytest.mark.parametrize("experts", [(0, 1, 0, 1), (1, 1, 1, 0), (0, 2, 2, 2)])
def test_operators_that_run_later_are_calibrated(by_function, experts):
    model = Experts().eval()
    data = routed(*experts)
    tuned = tune(model, data, by_function)
    assert not tuned.tuning_result.fallbacks
    assert closeness(model, tuned, data) > CLOSE


def test_a_sampling_size_before_an_operator_ran_has_its_range():
    tuned = torch_ext.autotune(Experts().eval(), routed(0, 0, 1, 1), sampling_sizes=[16, 64], progress=False)
    assert not tuned.tuning_result.fallbacks


def test_a_call_by_keyword_in_a_later_batch_keeps_the_operator_in_fp32():
    model = ByKeyword().eval()
    data = [{"x": normal(8, 16), "keyword": index == 2} for index in range(4)]
    tuned = torch_ext.autotune(model, data, progress=False)
    assert tuned.tuning_result.fallbacks["last"] == "its input is passed by keyword (33 % of the weights)"
    assert closeness(model, tuned, data) > CLOSE


def test_batches_too_large_to_be_kept_leave_in_fp32_what_later_ones_change(monkeypatch):
    monkeypatch.setattr(collect, "HELD_OUT_BYTES", 0)
    model = Attention().eval()
    data = contexts(0, 1, 1, 1)
    tuned = torch_ext.autotune(model, data, progress=False)
    assert {*tuned.tuning_result.fallbacks} == {"q", "k", "v"}
    assert "another way than the first" in tuned.tuning_result.fallbacks["q"]
    assert closeness(model, tuned, data[1:]) > CLOSE


def test_batches_that_agree_take_one_pass_and_no_note():
    model, seen = Convolutions().eval(), []
    adaptor = TorchAdaptor()
    model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    adaptor.calibrate(model, images(*["none"] * 4), (100,))
    reading, tracing, proving, layout, comparing, one_pass = 1, 4, 1 + 1 + 4, 2, 2 * 2, 16
    assert sum(seen) == reading + tracing + proving + layout + comparing + one_pass
    assert not [note for note in adaptor.notes() if "calibration batches differ" in note]
