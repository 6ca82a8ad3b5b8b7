"""Small models with calibration data, for tests over the public API."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.space.units import Unit
from inc_autotune.torch_ext.adaptor import TorchAdaptor

FEATURES = 16


def decibels(expected: Tensor, actual: Tensor) -> float:
    """How far the signal lies above its error."""
    error = (expected - actual).detach().square().sum()
    return float(10 * torch.log10(expected.detach().square().sum() / error))


class OutlierMLP(nn.Module):
    """Its LayerNorm makes two channels 30 times as large as the others, which per-tensor rounding cannot bear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(FEATURES)
        self.query, self.key = nn.Linear(FEATURES, 32), nn.Linear(FEATURES, 32)
        self.hidden, self.head = nn.Linear(32, 32), nn.Linear(32, 6)
        self.dropout = nn.Dropout(0.1)
        with torch.no_grad():
            self.norm.weight[[3, 7]] = 30.0
            self.query.weight[:, [3, 7]] /= 30.0
            self.key.weight[:, [3, 7]] /= 30.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        x = torch.relu(self.query(x)) * torch.sigmoid(self.key(x))
        return self.head(self.dropout(torch.relu(self.hidden(x))))


class SmallCNN(nn.Module):
    """Convolutions with BatchNorm, a residual connection and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.depthwise_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        y = self.pointwise(torch.relu(self.depthwise_norm(self.depthwise(x))))
        return self.head(torch.relu(x + y).mean((2, 3)))


class PlainCNN(nn.Module):
    """Three convolutions in a row and nothing else that is quantized."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class CalledTwice(nn.Module):
    """One Linear under two names, called three times on different tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Linear(FEATURES, FEATURES)
        self.again = nn.Sequential(nn.Tanh(), self.shared)
        self.head = nn.Linear(FEATURES, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.shared(self.again(4 * self.shared(x)))))


class TiedWeights(nn.Module):
    """Two Linears and an Embedding with one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.table = nn.Embedding(FEATURES, FEATURES)
        self.second.weight = self.table.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x))) + self.table(torch.zeros((), dtype=torch.long))


class NeverRun(nn.Module):
    """A Linear that no input reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused = nn.Linear(FEATURES, 4), nn.Linear(FEATURES, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Encoder(nn.Module):
    """torch's own transformer encoder with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(FEATURES, 2, 32, batch_first=True), 1)
        self.head = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=mask))


class Text(nn.Module):
    """An Embedding and a Linear; token ids [batch, sequence]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(200, 32), nn.Linear(32, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


def outlier_mlp() -> OutlierMLP:
    return OutlierMLP().eval()


def small_cnn() -> SmallCNN:
    """With BatchNorm statistics of real activations."""
    model = SmallCNN()
    with torch.no_grad():
        for images in image_batches(4, size=16, seed=9):
            model(images * 2 + 1)
    return model.eval()


def vectors(count: int = 8, size: int = 8, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, FEATURES, generator=generator) for _ in range(count)]


def image_batches(count: int = 4, size: int = 4, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, generator=generator) for _ in range(count)]


def id_batches(count: int = 3, size: int = 4, length: int = 12, vocabulary: int = 100) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, vocabulary, (size, length), generator=generator) for _ in range(count)]


def padded(ids: Tensor) -> dict[str, Tensor]:
    """Keyword inputs of a transformer with the last tokens of the first sample padded."""
    mask = torch.ones_like(ids)
    mask[0, -4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


_SMALL = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


def bert() -> nn.Module:
    import transformers

    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**_SMALL, intermediate_size=64)).eval()


def llama() -> nn.Module:
    """Grouped-query attention and tied embeddings."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**_SMALL, num_key_value_heads=2, intermediate_size=64, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config).eval()


def gpt2() -> nn.Module:
    """The transformers library's Conv1D instead of Linear."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config).eval()


def t5() -> nn.Module:
    """An encoder and a decoder."""
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def t5_inputs(ids: Tensor) -> dict[str, Tensor]:
    return {**padded(ids), "decoder_input_ids": ids[:, :5]}


class Agreement:
    """An evaluation: the share of samples whose best class is that of the fp32 model. Counts its calls."""

    def __init__(self, model: nn.Module, batches: Sequence[Tensor]) -> None:
        self.batches = batches
        self.calls = 0
        with torch.no_grad():
            self.expected = [model(batch).argmax(-1) for batch in batches]

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        hits = [model(batch).argmax(-1) == best for batch, best in zip(self.batches, self.expected, strict=True)]
        return float(torch.cat(hits).float().mean())


PLAIN = {
    "smooth_quant": False,
    "weight_rounding": "nearest",
    "fast_bias_correction": False,
    "weight_correction": False,
}
"""Recipes with which weights are rounded to nearest and nothing is compared before the search."""


def tune(model: nn.Module, data: Any = None, eval_func: Any = None, **arguments: Any) -> nn.Module:
    """`autotune` without progress bars and without a word about speed.

    Smoothing, corrections and rounding by second moments only where they are asked for; no bf16, which not every
    processor has.
    """
    arguments.setdefault("excluded_precisions", ["bf16"])
    asked = {"smooth_quant"} if "smoothquant_args" in arguments else set()
    arguments.setdefault("recipes", {name: choice for name, choice in PLAIN.items() if name not in asked})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the tuned model is not faster")
        return torch_ext.autotune(model, data, eval_func, **{"progress": False, **arguments})


def error(actual: Any, expected: Any) -> float:
    """Squared error over squared reference of the first tensor of each output."""
    actual, expected = first_tensor(actual), first_tensor(expected)
    return float(((actual - expected) ** 2).sum() / (expected**2).sum())


def fix_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model be as fast as every other, and no unit too slow for int8.

    Both are measured all the same: that must not fail, nor leave a trace.
    """
    measure, unit_speeds = TorchAdaptor.measure, TorchAdaptor.unit_speeds

    def equal(adaptor: TorchAdaptor, models: Sequence[nn.Module]) -> Sequence[float]:
        return [1.0 for _ in measure(adaptor, models) or ()]

    def unjudged(
        adaptor: TorchAdaptor, units: Sequence[Unit], expired: Callable[[], bool] = lambda: False
    ) -> Mapping[str, UnitSpeed]:
        unit_speeds(adaptor, units, expired)
        return {}

    monkeypatch.setattr(TorchAdaptor, "measure", equal)
    monkeypatch.setattr(TorchAdaptor, "measure_threads", lambda *_: None)
    monkeypatch.setattr(TorchAdaptor, "unit_speeds", unjudged)


def first_tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def dtypes(tuned: nn.Module) -> dict[str, str]:
    """What each operator became, by name."""
    return {each.name: each.dtype for each in tuned.tuning_result.operators}
