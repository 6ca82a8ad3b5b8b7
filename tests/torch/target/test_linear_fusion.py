"""Compiled graphs: what stands behind an integer product becomes a part of it, and nothing else changes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inc_autotune.torch_ext.target.linear import Product, integer_linear, linear_problem, packed_weight
from inc_autotune.torch_ext.target.linear_fusion import register_fusions

pytestmark = pytest.mark.skipif(linear_problem() is not None, reason=f"no kernel here: {linear_problem()}")

WIDTH = 24


class IntegerLinear(nn.Module):
    def __init__(self, depth, columns, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randint(-127, 128, (columns, depth), generator=generator, dtype=torch.int8)
        self.register_buffer("weight", weight)
        self.register_buffer("multiplier", 20 + torch.rand(depth, generator=generator))
        self.register_buffer("scale", (1 + torch.rand(columns, generator=generator)) / (3000 * depth**0.5))
        self.bias = nn.Parameter(torch.randn(columns, generator=generator), requires_grad=False)

    def forward(self, x):
        sums = self.weight.sum(1, dtype=torch.int32)
        offset = torch.full_like(self.multiplier, 100.0)
        packed = packed_weight(self.weight)
        return integer_linear(x, self.multiplier, offset, 100, packed, sums, self.scale, self.bias)


class Block(nn.Module):
    """A product, an activation and a product; then a residual and its normalization."""

    def __init__(self, activation, inner=3 * WIDTH, product_first=True):
        super().__init__()
        self.up, self.down = IntegerLinear(WIDTH, inner, 0), IntegerLinear(inner, WIDTH, 1)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.norm.weight.data = torch.linspace(0.5, 2, WIDTH)
        self.activation, self.product_first = activation, product_first

    def forward(self, x):
        y = self.down(self.activation(self.up(x)))
        return self.norm(y + x if self.product_first else x + y)


class SeveralReaders(nn.Module):
    """A normalized product that three others read, two of which round it alike."""

    def __init__(self):
        super().__init__()
        self.block = Block(F.relu)
        self.readers = nn.ModuleList(IntegerLinear(WIDTH, WIDTH, seed) for seed in (3, 4, 5))
        self.readers[2].multiplier = self.readers[0].multiplier.clone()

    def forward(self, x):
        y = self.block(x)
        return y + sum(each(y) for each in self.readers)


class NotFused(nn.Module):
    """What looks like it and is not: two read the activation, another axis or shape, an odd number of columns."""

    def __init__(self):
        super().__init__()
        self.up, self.down = IntegerLinear(WIDTH, WIDTH, 0), IntegerLinear(WIDTH, WIDTH, 1)
        self.odd, self.after_odd = IntegerLinear(WIDTH, 21, 2), IntegerLinear(21, WIDTH, 3)
        self.norm = nn.LayerNorm((5, WIDTH))

    def forward(self, x):
        shared = F.gelu(self.up(x))
        y = self.norm(self.down(shared) + shared)
        y = F.layer_norm(self.up(y) + x[:, :1], (WIDTH,))
        return self.after_odd(F.gelu(self.odd(y)))


def compiled(model, *inputs, dynamic=False):
    """The outputs of a compiled model for some inputs, and the products in its last graph."""
    register_fusions()
    graphs = []
    torch._dynamo.reset()
    config = {"freezing": True, "force_disable_caches": True, "post_grad_custom_post_pass": graphs.append}
    with torch.no_grad(), torch._inductor.config.patch(config):
        function = torch.compile(model.eval(), fullgraph=True, dynamic=dynamic)
        outputs = [function(x) for x in inputs]
    operators = (
        torch.ops.inc_autotune.integer_linear.default,
        torch.ops.inc_autotune.integer_linear_and_integers.default,
    )
    # Held by name, since a graph goes on to change.
    return outputs, [Product(*node.args) for node in graphs[-1].nodes if node.target in operators]


class Blocks(nn.Sequential):
    def __init__(self):
        super().__init__(
            Block(F.gelu),
            Block(nn.GELU(approximate="tanh"), product_first=False),
            Block(F.relu),
            Block(F.silu),
        )


@pytest.mark.parametrize("dynamic", [False, True])
def test_activations_and_normalizations_become_parts_of_products(dynamic):
    model = Blocks().eval()
    inputs = [torch.randn(2, rows, WIDTH, generator=torch.Generator().manual_seed(rows)) for rows in (5, 6)]
    outputs, products = compiled(model, *(inputs if dynamic else inputs[:1]), dynamic=dynamic)
    for x, output in zip(inputs, outputs, strict=False):
        # A value at the border of two integers may fall to either side.
        assert float((output - model(x)).abs().mean()) < 1e-3
    assert [each.activation for each in products] == ["gelu", "", "gelu_tanh", "", "relu", "", "", ""]
    assert [each.next_multiplier is None for each in products] == [False] * 6 + [True, True]
    assert [each.multiplier is None for each in products] == [False] + [True] * 6 + [False]
    assert [each.residual is None for each in products] == [True, False] * 4
    assert [each.epsilon for each in products] == [0.0, 1e-6] * 4


def test_readers_that_round_alike_get_integers():
    model = SeveralReaders().eval()
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    (output,), products = compiled(model, x)
    assert float((output - model(x)).abs().mean()) < 1e-3
    assert sorted(each.multiplier is None for each in products[1:]) == [False, True, True, True]
    assert products[1].next_multiplier is not None


def test_what_cannot_be_a_part_stays():
    model = NotFused().eval()
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    (output,), products = compiled(model, x)
    assert float((output - model(x)).abs().mean()) < 1e-3
    assert len(products) == 5
    assert all(each[8:] == tuple(Product._field_defaults.values()) for each in products)


def test_without_what_they_need_of_inductor_graphs_stay_as_they_are(monkeypatch, caplog):
    import torch._inductor.pattern_matcher as matcher

    monkeypatch.delattr(matcher, "register_graph_pattern")
    with caplog.at_level("WARNING"):
        register_fusions.__wrapped__()
    assert "ImportError" in caplog.text
