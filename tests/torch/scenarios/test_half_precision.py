"""Models in bf16 and fp16, as checkpoints of language models come, are tuned as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.modules import convert_module, prepare_module
from tests.torch.module_examples import EXAMPLES

HALVES = (torch.bfloat16, torch.float16)


class Reader(nn.Module):
    """A table, a normalization in float32, a recurrent layer and Linears, of which one reads the dtype of another."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 32)
        self.norm = nn.LayerNorm(32)
        self.reader = nn.GRU(32, 32, batch_first=True)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.table(ids).float()).to(self.up.weight.dtype)
        x = torch.relu(self.up(self.reader(x)[0][:, -1]))
        return self.down(x.to(self.down.weight.dtype))


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.next = nn.Conv2d(16, 16, 3)
        self.larger = nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.convolution(x)))
        return self.head(self.larger(self.next(x)).mean((2, 3)))


def reader(dtype: torch.dtype) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model = Reader().eval().to(dtype)
    model.norm.float()
    return model, [torch.randint(0, 40, (4, 6)) for _ in range(4)]


def picture(dtype: torch.dtype) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    return Picture().eval().to(dtype), [torch.randn(4, 3, 10, 10).to(dtype) for _ in range(4)]


def outputs(model: nn.Module, batches: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in batches])


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("make", [reader, picture])
def test_a_model_in_half_precision_is_tuned_as_it_is(make, dtype, tmp_path):
    model, batches = make(dtype)
    expected = outputs(model, batches)
    before = copy.deepcopy(model.state_dict())
    tuned = torch_ext.autotune(
        model,
        batches,
        lambda candidate: -float((outputs(candidate, batches) - expected).float().square().mean()),
        accuracy_criterion={"absolute": 1e9},
        objective="modelsize",
        progress=False,
    )
    quantized = torch_ext.convert(tuned)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    result = tuned.tuning_result
    assert {each.dtype for each in result.operators} <= {"int8", "uint8", "uint4", "fp32"}
    assert any(str(dtype).removeprefix("torch.") in note and "stays as given" in note for note in result.notes)
    y = outputs(quantized, batches)
    assert y.dtype == dtype
    assert {parameter.dtype for parameter in quantized.parameters()} <= {dtype, torch.float32}
    assert signal_to_noise_db(expected.float(), y.float()) > 15
    assert signal_to_noise_db(outputs(tuned, batches).float(), y.float()) > 35
    torch_ext.save(tuned, tmp_path / "saved")
    assert torch.equal(outputs(torch_ext.convert(torch_ext.load(tmp_path / "saved", model)), batches), y)
    assert torch.equal(outputs(torch.jit.trace(quantized, batches[0]), batches), y)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "Conv" not in name or name.startswith("Conv2d")])
def test_forms_of_an_operator_agree_in_bf16(name):
    example = EXAMPLES[name]()
    module = copy.deepcopy(example.module).bfloat16()
    x = example.x.bfloat16() if isinstance(example.x, Tensor) and example.x.is_floating_point() else example.x
    with torch.no_grad():
        prepared = prepare_module(module, example.config, example.calibration)
        quantized = convert_module(prepared)
        expected, y = prepared(x), quantized(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert (
        signal_to_noise_db(expected.float(), y.float()) > 45
    )  # what lies between two numbers of bf16 may go either way
    assert quantized.weight.dtype == torch.bfloat16
    assert (quantized.weight.float() - module.weight.float()).abs().max() < module.weight.abs().max() / 4


def test_a_converted_model_can_change_its_dtype():
    example = EXAMPLES["Embedding"]()
    quantized = example.quantized()
    expected = quantized(example.x)
    assert quantized.bfloat16().weight.dtype == torch.bfloat16
    assert signal_to_noise_db(expected, quantized(example.x).float()) > 45


def test_training_needs_full_precision():
    model, batches = reader(torch.bfloat16)
    for start in (
        lambda: torch_ext.prepare(model, batches),
        lambda: torch_ext.autotune(model, batches, lambda each: 1.0, train_func=lambda each: None),
    ):
        with pytest.raises(ModelError, match=r"table.weight is torch.bfloat16, and .* small updates. Call model.float"):
            start()
