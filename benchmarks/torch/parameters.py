"""Products with parameters of a model's own beside the same model written with layers: speed and SQNR in every form.

    python benchmarks/torch/parameters.py

Each pair has the same weights: an MLP by `F.linear`, attention whose projections are `einsum`s, and a mixture whose
experts lie in one parameter. Both are tuned by `autotune` with one alpha, converted, and timed in turn: eager, traced
and compiled. "by layers" of 1.00 means that it does not matter how the model is written. The last table has a small
random Mixtral of the transformers library, whose experts run by `grouped_mm`. Needs a C++ compiler.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor import config as inductor_config

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from inc_autotune import torch_ext

WIDTH, INNER, HEADS, EXPERTS = 512, 2048, 8, 4


def weight(*shape: int, inputs: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) / inputs**0.5)


def layer(matrix: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A Linear of a weight [out, in]."""
    result = nn.Linear(*matrix.t().shape, bias=bias is not None)
    result.weight = nn.Parameter(matrix.detach().clone())
    if bias is not None:
        result.bias = nn.Parameter(bias.detach().clone())
    return result


class OwnMLP(nn.Module):
    """Two layers by `F.linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.up_bias = weight(INNER, WIDTH, inputs=WIDTH), weight(INNER, inputs=1)
        self.down, self.down_bias = weight(WIDTH, INNER, inputs=INNER), weight(WIDTH, inputs=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(x, self.up, self.up_bias)), self.down, self.down_bias)


class LayersMLP(nn.Module):
    """The same by layers."""

    def __init__(self, own: OwnMLP) -> None:
        super().__init__()
        self.up, self.down = layer(own.up, own.up_bias), layer(own.down, own.down_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class OwnAttention(nn.Module):
    """Projections to and from heads by `einsum`."""

    def __init__(self) -> None:
        super().__init__()
        size = WIDTH // HEADS
        self.q, self.k, self.v = (weight(WIDTH, HEADS, size, inputs=WIDTH) for _ in range(3))
        self.out = weight(HEADS, size, WIDTH, inputs=WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bsd,dhk->bhsk", x, each) for each in (self.q, self.k, self.v))
        return torch.einsum("bhsk,hkd->bsd", F.scaled_dot_product_attention(q, k, v), self.out)


class LayersAttention(nn.Module):
    """The same by layers."""

    def __init__(self, own: OwnAttention) -> None:
        super().__init__()
        self.q, self.k, self.v = (layer(each.flatten(1).t()) for each in (own.q, own.k, own.v))
        self.out = layer(own.out.flatten(0, 1).t())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class OwnExperts(nn.Module):
    """Experts in one parameter; each gets an equal share of the tokens, so that every form can run it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = weight(EXPERTS, INNER // 2, WIDTH, inputs=WIDTH)
        self.down = weight(EXPERTS, WIDTH, INNER // 2, inputs=INNER // 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.flatten(0, 1).chunk(EXPERTS)
        results = [F.linear(F.silu(F.linear(part, self.up[i])), self.down[i]) for i, part in enumerate(parts)]
        return torch.cat(results).view_as(x)


class LayersExperts(nn.Module):
    """The same by layers."""

    def __init__(self, own: OwnExperts) -> None:
        super().__init__()
        self.up, self.down = nn.ModuleList(map(layer, own.up)), nn.ModuleList(map(layer, own.down))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.flatten(0, 1).chunk(EXPERTS)
        return torch.cat([self.down[i](F.silu(self.up[i](part))) for i, part in enumerate(parts)]).view_as(x)


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[Any], nn.Module]]] = {
    "F.linear": (OwnMLP, LayersMLP),
    "einsum": (OwnAttention, LayersAttention),
    "experts": (OwnExperts, LayersExperts),
}


def compiled(model: nn.Module, x: Tensor) -> Any:
    result = torch.compile(model, dynamic=False, fullgraph=True)
    result(x)
    return result


FORMS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "eager": lambda model, x: model,
    "traced": common.traced,
    "compiled": compiled,
}


def quantized(model: nn.Module, data: Any) -> nn.Module:
    every = {".*": {"weight": {"dtype": ["int8"]}}}
    arguments = {"smoothquant_args": {"alpha": 0.5}, "op_name_dict": every, "progress": False}
    return torch_ext.convert(torch_ext.autotune(model, data, **arguments))


def signal_to_noise(expected: Tensor, actual: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - actual).square().sum()))


def measure(name: str, repeat: int, patience: float) -> list[list[Any]]:
    make, by_layers = PAIRS[name]
    own = make().eval()
    layers = by_layers(own).eval()
    data = list(torch.randn(24, 128, WIDTH, generator=torch.Generator().manual_seed(0)).split(2))
    x = data[0]
    expected, models = own(x), [quantized(own, data), quantized(layers, data)]
    rows = []
    for form, make_form in FORMS.items():
        torch._dynamo.reset()
        ready = [make_form(own, x), *(make_form(model, x) for model in models)]
        times = common.interleaved([partial(model, x) for model in ready], repeat, patience=patience)
        noise = [signal_to_noise(expected, model(x)) for model in ready[1:]]
        fp32, ours, theirs = (1e3 * each for each in times)
        rows.append([name, form, fp32, ours, theirs, f"{ours / theirs:.2f}", fp32 / ours, *noise])
    return rows


def mixtral(repeat: int, patience: float) -> list[Any]:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=8,
    )
    torch.manual_seed(0)
    model = MixtralForCausalLM(config).eval()
    data = [{"input_ids": torch.randint(1000, (4, 64)), "use_cache": False} for _ in range(8)]
    int8 = quantized(model, data)
    times = common.interleaved([partial(each, **data[0]) for each in (model, int8)], repeat, patience=patience)
    noise = signal_to_noise(model(**data[0]).logits, int8(**data[0]).logits)
    share = int8.tuning_result.weight_shares["int8"]
    return [config._experts_implementation, *(1e3 * each for each in times), times[0] / times[1], 100 * share, noise]


@torch.no_grad()
def main() -> None:
    parser = measuring.parser(__doc__, quiet=True)
    parser.add_argument("--pair", choices=PAIRS, action="append", help="repeatable; default: all, and Mixtral")
    options = common.parse(parser)
    inductor_config.freezing = True
    columns = (
        "weights",
        "form",
        "fp32 ms",
        "int8 ms",
        "layers int8 ms",
        "by layers",
        "times faster",
        "SQNR",
        "layers SQNR",
    )
    rows = [row for name in options.pair or PAIRS for row in measure(name, options.repeat, options.patience)]
    title = f"{options.threads} thread(s), 2 x 128 tokens, torch {torch.__version__}"
    measuring.print_table(f"Products with parameters, {title}", columns, rows)
    if not options.pair:
        columns = ("experts run by", "fp32 ms", "int8 ms", "times faster", "weights int8 %", "SQNR")
        measuring.print_table("Mixtral, 4 x 64 tokens, eager", columns, [mixtral(options.repeat, options.patience)])


if __name__ == "__main__":
    main()
