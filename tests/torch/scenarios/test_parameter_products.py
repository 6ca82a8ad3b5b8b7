"""Products with a parameter that is no known module's weight, in every spelling, from tuning to deployment."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ModelError, RecipeError

WIDTH, HEADS = 32, 4


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


class Spelled(nn.Module):
    """A layer that computes in a way of its own, between two Linears."""

    def __init__(self, compute: Callable[..., Tensor], *parameters: nn.Parameter) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(WIDTH, WIDTH), nn.LazyLinear(8)
        self.w = parameters[0]
        self.register_parameter("b", parameters[1] if len(parameters) > 1 else None)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.relu(self.compute(self, torch.relu(self.before(x)))))


def square() -> tuple[nn.Parameter, ...]:
    return (weight(WIDTH, WIDTH),)


def with_bias() -> tuple[nn.Parameter, ...]:
    return weight(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH))


def heads(order: str) -> Callable[[], tuple[nn.Parameter, ...]]:
    sizes = {"h": HEADS, "k": WIDTH // HEADS, "d": WIDTH}
    return lambda: (weight(*(sizes[letter] for letter in order)),)


def slices(self: Spelled, x: Tensor) -> Tensor:
    q, k, v = (F.linear(x, part) for part in self.w.chunk(3))
    return q * k.sigmoid() + v


def in_turn(self: Spelled, x: Tensor) -> Tensor:
    for index in range(len(self.w)):
        x = torch.relu(F.linear(x, self.w[index]))
    return x


def batched(self: Spelled, x: Tensor) -> Tensor:
    return torch.bmm(x.transpose(0, 1).reshape(3, -1, WIDTH), self.w).sum(0)


SPELLINGS: dict[str, tuple[Callable[..., Tensor], Callable[[], tuple[nn.Parameter, ...]], list[str]]] = {
    "F.linear": (lambda self, x: F.linear(x, self.w), square, ["w"]),
    "F.linear with bias": (lambda self, x: F.linear(x, self.w, self.b), with_bias, ["w"]),
    "F.linear with another bias": (lambda self, x: F.linear(x, self.w, self.b * 2), with_bias, ["w"]),
    "F.linear with a part of a bias": (
        lambda self, x: F.linear(x, self.w, self.b[:WIDTH]),
        lambda: (weight(WIDTH, WIDTH), nn.Parameter(torch.randn(2 * WIDTH))),
        ["w"],
    ),
    "with and without bias": (
        lambda self, x: F.linear(F.linear(x, self.w), self.w, self.b),
        with_bias,
        ["w"],
    ),
    "@": (lambda self, x: x @ self.w, square, ["w"]),
    "@ plus bias": (lambda self, x: x @ self.w + self.b, with_bias, ["w"]),
    "@ w.t()": (lambda self, x: x @ self.w.t(), square, ["w"]),
    "@ w.T": (lambda self, x: x @ self.w.T, square, ["w"]),
    "@ w.mT": (lambda self, x: x @ self.w.mT, square, ["w"]),
    "w @": (lambda self, x: (self.w @ x.mT).mT, square, ["w"]),
    "transpose": (lambda self, x: torch.matmul(x, self.w.transpose(0, 1)), square, ["w"]),
    "permute": (lambda self, x: x.matmul(self.w.permute(1, 0)), square, ["w"]),
    "mm": (lambda self, x: torch.mm(x.flatten(0, 1), self.w).view(x.shape), square, ["w"]),
    "addmm": (lambda self, x: torch.addmm(self.b, x.flatten(0, 1), self.w).view(x.shape), with_bias, ["w"]),
    "bmm with one matrix": (lambda self, x: x.bmm(self.w.expand(len(x), -1, -1)), square, ["w"]),
    "baddbmm": (
        lambda self, x: torch.baddbmm(self.b, x, self.w.unsqueeze(0).expand(x.shape[0], -1, -1)),
        with_bias,
        ["w"],
    ),
    "bmm with many": (batched, lambda: (weight(3, WIDTH, WIDTH),), ["w.0", "w.1", "w.2"]),
    "einsum": (lambda self, x: torch.einsum("bsd,df->bsf", x, self.w), square, ["w"]),
    "einsum, weight first": (lambda self, x: torch.einsum("fd,...d->...f", self.w, x), square, ["w"]),
    "einsum, implicit": (lambda self, x: torch.einsum("bsd,dz", x, self.w), square, ["w"]),
    "einsum to heads": (
        lambda self, x: torch.einsum("bsd,dhk->bhsk", x, self.w).transpose(1, 2).flatten(2),
        heads("dhk"),
        ["w"],
    ),
    "einsum to heads, heads first": (
        lambda self, x: torch.einsum("bsd,hdk->bshk", x, self.w).flatten(2),
        heads("hdk"),
        ["w"],
    ),
    "einsum from heads": (
        lambda self, x: torch.einsum("bshk,khd->bsd", x.unflatten(-1, (HEADS, -1)), self.w),
        heads("khd"),
        ["w"],
    ),
    "einsum, one weight for each head": (
        lambda self, x: torch.einsum("bshk,hkj->bshj", x.unflatten(-1, (HEADS, -1)), self.w).flatten(2),
        lambda: (weight(HEADS, WIDTH // HEADS, WIDTH // HEADS),),
        [f"w.{head}" for head in range(HEADS)],
    ),
    "tensordot": (lambda self, x: torch.tensordot(x, self.w, dims=([-1], [1])), square, ["w"]),
    "a view of heads": (lambda self, x: F.linear(x, self.w.view(WIDTH, WIDTH)), heads("hkd"), ["w"]),
    "chunks": (slices, lambda: (weight(3 * WIDTH, WIDTH),), ["w.0", "w.1", "w.2"]),
    "in turn": (in_turn, lambda: (weight(3, WIDTH, WIDTH),), ["w.0", "w.1", "w.2"]),
    "conv1d": (
        lambda self, x: F.conv1d(x.mT, self.w, self.b, padding=1).mT,
        lambda: (weight(WIDTH, WIDTH, 3), nn.Parameter(torch.randn(WIDTH))),
        ["w"],
    ),
    "conv2d": (
        lambda self, x: F.conv2d(x.unsqueeze(1), self.w, padding="same").mean(1),
        lambda: (weight(4, 1, 3, 3),),
        ["w"],
    ),
    "conv_transpose1d": (
        lambda self, x: F.conv_transpose1d(x.mT, self.w, self.b, stride=2, output_padding=1).mT,
        lambda: (weight(WIDTH, WIDTH, 3), nn.Parameter(torch.randn(WIDTH))),
        ["w"],
    ),
}


def build(case: str) -> Spelled:
    torch.manual_seed(0)
    compute, parameters, _ = SPELLINGS[case]
    model = Spelled(compute, *parameters())
    model(torch.randn(2, 6, WIDTH))
    return model.eval()


def signal_to_noise(expected: Tensor, actual: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - actual).square().sum()))


@pytest.mark.parametrize("case", SPELLINGS)
@torch.no_grad()
def test_every_spelling_is_an_operator(case: str, tmp_path) -> None:
    model = build(case)
    state = copy.deepcopy(model.state_dict())
    data = [torch.randn(2, 6, WIDTH) for _ in range(6)]
    expected = model(data[0])
    tuned = torch_ext.autotune(model, data, smoothquant_args={"alpha": 0.5}, progress=False)
    result = tuned.tuning_result
    kind = case.title().replace("_", "").replace("D", "d") if case.startswith("conv") else "Linear"
    products = {each.name: (each.type, each.dtype, each.reason) for each in result.operators if each.name[0] == "w"}
    assert products == dict.fromkeys(SPELLINGS[case][2], (kind, "int8", ""))
    assert result.weight_shares == pytest.approx({"int8": 1.0})
    converted = torch_ext.convert(tuned)
    output = converted(data[0])
    assert signal_to_noise(expected, output) > 25
    assert torch.allclose(tuned(data[0]), output, atol=1e-3)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(data[0]), expected)
    # To disk, from the recipe, into a trace and an exported program.
    torch_ext.save(converted, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path, build(case))(data[0]), output)
    assert torch.equal(torch_ext.convert(torch_ext.apply_recipe(model, result.recipe))(data[0]), output)
    assert torch.equal(copy.deepcopy(converted)(data[0]), output)
    assert torch.allclose(torch.jit.trace(converted, data[0])(data[1]), converted(data[1]), atol=1e-5)


COMPILED = ["F.linear with bias", "@ w.t()", "einsum to heads", "in turn", "conv1d"]


@pytest.mark.parametrize("case", COMPILED)
@torch.no_grad()
def test_compilers_see_through(case: str) -> None:
    model, x = build(case), torch.randn(2, 6, WIDTH)
    converted = torch_ext.convert(torch_ext.autotune(model, [x], progress=False))
    output = converted(x)
    compiled = torch.compile(converted, fullgraph=True, backend="eager")
    exported = torch.export.export(converted, (x,)).module()
    for form in (compiled, exported):
        assert signal_to_noise(output, form(x)) > 35


def test_fine_tuning_reaches_the_parameter_and_its_bias() -> None:
    model, x = build("F.linear with bias"), torch.randn(2, 6, WIDTH)
    tuned = torch_ext.autotune(model, [x], progress=False)
    assert {"w.weight", "w.bias"} <= set(tuned.state_dict())
    tuned(x).square().sum().backward()
    assert float(tuned.w.weight.grad.abs().max()) > 0
    assert float(tuned.w.bias.grad.abs().max()) > 0
    assert model.w.grad is None


def test_rules_name_products_by_their_parameter() -> None:
    model, data = build("in turn"), [torch.randn(2, 6, WIDTH) for _ in range(4)]
    rules = {r"w\.1": {"weight": {"dtype": ["fp32"]}}}
    tuned = torch_ext.autotune(model, data, op_name_dict=rules, progress=False)
    types = {each.name: each.dtype for each in tuned.tuning_result.operators}
    assert (types["w.0"], types["w.1"], types["w.2"]) == ("int8", "fp32", "int8")
    converted = torch_ext.convert(tuned)
    assert signal_to_noise(model(data[0]), converted(data[0])) > 20


def test_what_else_reads_a_converted_parameter_gets_its_numbers() -> None:
    """As a program may that does so on some inputs only."""
    model, x = build("einsum to heads, heads first"), torch.randn(2, 6, WIDTH)
    converted = torch_ext.convert(torch_ext.autotune(model, [x], progress=False))
    assert signal_to_noise(model.w.detach(), converted.w * 1.0) > 30
    assert signal_to_noise(model.w.detach()[1].abs().sum(), converted.w[1].abs().sum()) > 30
    assert converted.w.shape == model.w.shape


class Alone(nn.Module):
    """No layer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.w = weight(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.w)


@pytest.mark.parametrize("build", [Alone, lambda: nn.Sequential(Alone(), Alone())], ids=["root", "children"])
def test_a_model_without_layers(build: Callable[[], nn.Module]) -> None:
    model, data = build().eval(), [torch.randn(8, WIDTH) for _ in range(4)]
    rules = {".*w": {"weight": {"dtype": ["int8"]}}}
    tuned = torch_ext.autotune(model, data, op_name_dict=rules, progress=False)
    assert tuned.tuning_result.weight_shares == {"int8": 1.0}
    assert signal_to_noise(model(data[0]).detach(), torch_ext.convert(tuned)(data[0])) > 25


def test_a_calibration_function_may_run_the_model() -> None:
    model, data = build("F.linear with bias"), [torch.randn(2, 6, WIDTH) for _ in range(4)]
    tuned = torch_ext.autotune(model, calib_func=lambda copy: [copy(x) for x in data], progress=False)
    assert {each.dtype for each in tuned.tuning_result.operators} == {"int8"}
    assert signal_to_noise(model(data[0]).detach(), torch_ext.convert(tuned)(data[0])) > 25


class Head(nn.Module):
    """An output head over the table of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(64, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.body(self.embedding(ids))), self.embedding.weight)


class OwnTable(nn.Module):
    """The same, with a parameter in place of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Parameter(torch.randn(64, WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.body(F.embedding(ids, self.table))) @ self.table.t()


@pytest.mark.parametrize(("build", "name"), [(Head, "embedding.weight"), (OwnTable, "table")])
def test_a_tied_head_is_an_operator_while_the_table_stays(build: type[nn.Module], name: str, tmp_path) -> None:
    torch.manual_seed(0)
    model, data = build().eval(), [torch.randint(64, (2, 5)) for _ in range(6)]
    tuned = torch_ext.autotune(model, data, progress=False)
    outcomes = {each.name: each for each in tuned.tuning_result.operators}
    assert (outcomes[name].type, outcomes[name].dtype) == ("Linear", "int8")
    assert "looked up in fp32" in "".join(each.reason for each in outcomes.values())
    assert sum(tuned.tuning_result.weight_shares.values()) == pytest.approx(1)
    assert tuned.tuning_result.weight_shares["fp32"] > 0.3
    converted = torch_ext.convert(tuned)
    assert signal_to_noise(model(data[0]).detach(), converted(data[0])) > 25
    torch_ext.save(converted, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path, build().eval())(data[0]), converted(data[0]))
    assert torch.allclose(torch.jit.trace(converted, data[0])(data[1]), converted(data[1]), atol=1e-5)


class LowRank(nn.Linear):
    """A Linear with an adapter, as libraries for fine-tuning write it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.down, self.up = nn.Parameter(torch.randn(8, width)), nn.Parameter(torch.randn(width, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + x @ self.down.t() @ self.up.t() * 0.01


def test_a_layer_of_a_users_own_class_with_an_adapter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LowRank(WIDTH), nn.ReLU(), LowRank(WIDTH)).eval()
    data = [torch.randn(8, WIDTH) for _ in range(6)]
    tuned = torch_ext.autotune(model, data, progress=False)
    types = {each.name: each.dtype for each in tuned.tuning_result.operators}
    assert types == dict.fromkeys([f"{layer}.{name}" for layer in (0, 2) for name in ("weight", "down", "up")], "int8")
    converted = torch_ext.convert(tuned)
    assert isinstance(converted[0], LowRank)
    assert signal_to_noise(model(data[0]).detach(), converted(data[0])) > 25


class Listed(nn.Module):
    """Parameters in containers, and one that goes by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ParameterList([weight(WIDTH, WIDTH) for _ in range(2)])
        self.named = nn.ParameterDict({"a": weight(WIDTH, WIDTH)})
        self.again = self.named["a"]

    def forward(self, x: Tensor) -> Tensor:
        for each in self.listed:
            x = torch.relu(x @ each)
        return x @ self.named["a"] + F.linear(x, self.again.t())


def test_containers_and_second_names(tmp_path) -> None:
    torch.manual_seed(0)
    model, data = Listed().eval(), [torch.randn(8, WIDTH) for _ in range(6)]
    tuned = torch_ext.autotune(model, data, progress=False)
    types = {each.name: each.dtype for each in tuned.tuning_result.operators}
    assert types == {"listed.0": "int8", "listed.1": "int8", "again": "int8"}
    converted = torch_ext.convert(tuned)
    assert signal_to_noise(model(data[0]).detach(), converted(data[0])) > 25
    torch_ext.save(converted, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path, Listed().eval())(data[0]), converted(data[0]))
    assert torch.equal(pickle.loads(pickle.dumps(converted))(data[0]), converted(data[0]))


class Experts(nn.Module):
    """A mixture whose experts lie in one parameter; tokens are sorted by expert."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.w = nn.Linear(WIDTH, 3), weight(3, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        expert, order = self.router(x).argmax(-1).sort()
        ends = torch.bincount(expert, minlength=3).cumsum(0).int()
        product = F.grouped_mm(x[order], self.w.transpose(-2, -1), offs=ends)
        return product[order.argsort()]


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="torch < 2.10")
def test_experts_that_run_by_grouped_mm() -> None:
    torch.manual_seed(0)
    model, data = Experts().eval(), [torch.randn(32, WIDTH) for _ in range(6)]
    rules = {"router": {"weight": {"dtype": ["fp32"]}}}  # another expert makes another output
    tuned = torch_ext.autotune(model, data, op_name_dict=rules, progress=False)
    types = {each.name: each.dtype for each in tuned.tuning_result.operators}
    assert types == {"router": "fp32", "w.0": "int8", "w.1": "int8", "w.2": "int8"}
    converted = torch_ext.convert(tuned)
    assert signal_to_noise(model(data[0]).detach(), converted(data[0])) > 25
    assert converted(data[0][:0]).shape == (0, WIDTH)
    with pytest.raises(ModelError, match="a trace would fix how many rows each expert gets"):
        torch.jit.trace(converted, data[0])


def test_a_mixture_of_the_transformers_library(tmp_path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    config = transformers.MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        num_experts_per_tok=2,
    )
    if not hasattr(torch.nn.functional, "grouped_mm"):  # there transformers has an operator of its own instead
        config._experts_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).eval()
    data = [torch.randint(64, (2, 16)) for _ in range(4)]
    tuned = torch_ext.autotune(
        model, data, op_name_dict={".*gate.weight": {"weight": {"dtype": ["fp32"]}}}, progress=False
    )
    types = {each.name: each.dtype for each in tuned.tuning_result.operators}
    names = [
        f"model.layers.0.mlp.experts.{name}.{expert}" for name in ("gate_up_proj", "down_proj") for expert in range(3)
    ]
    assert {types[name] for name in names} == {"int8"}
    converted = torch_ext.convert(tuned)
    assert signal_to_noise(model(data[0]).logits.detach(), converted(data[0]).logits) > 20
    torch_ext.save(converted, tmp_path)
    assert torch.equal(torch_ext.load(tmp_path)(data[0]).logits, converted(data[0]).logits)


def test_a_recipe_for_another_model_is_refused() -> None:
    model, x = build("@"), torch.randn(2, 6, WIDTH)
    recipe = torch_ext.autotune(model, [x], progress=False).tuning_result.recipe
    del model.w
    model.w = None
    with pytest.raises(RecipeError, match="'w' is no parameter of the model"):
        torch_ext.apply_recipe(model, recipe)
    model.w = nn.Parameter(torch.randn(4, 4))
    with pytest.raises(RecipeError, match=r"'w' has shape \[4, 4\] in the model, which does not fit"):
        torch_ext.apply_recipe(model, recipe)


REFUSED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "on other inputs only": (
        lambda self, x: x @ self.w if x.shape[0] > 100 else x,
        "w is not used in the first calibration batch",
    ),
    "also multiplied": (lambda self, x: x @ self.w + self.w.mean(), "w also read by aten.mean"),
    "scaled before": (lambda self, x: x @ (self.w * 0.5), "w read by aten.mul"),
    "two forms": (lambda self, x: x @ self.w @ self.w.t(), "w it takes part in products of several forms"),
    "a part": (lambda self, x: x[..., :20] @ self.w[:20], "w only a part of it is used"),
    "asked for its class": (
        lambda self, x: x @ self.w if isinstance(self.w, Tensor) else x.no_such_method(),
        "w the model does not run with a module in its place: AttributeError",
    ),
    "in a list": (lambda self, x: x @ vars(self).setdefault("kept", [self.w])[0], "w reached otherwise"),
    "in a function that is a script": (lambda self, x: scripted(x, self.w), "w read by aten.mm"),
}


@torch.jit.script
def scripted(x: Tensor, w: Tensor) -> Tensor:
    return torch.matmul(x, w)


@pytest.mark.parametrize("case", REFUSED)
def test_others_stay_with_a_reason(case: str) -> None:
    torch.manual_seed(0)
    compute, reason = REFUSED[case]
    model = Spelled(compute, *square())
    data = [torch.randn(2, 6, WIDTH) for _ in range(4)]
    model(data[0])
    result = torch_ext.autotune(model.eval(), data, progress=False).tuning_result
    outcome = next(each for each in result.operators if "w" in each.reason and each.type == "Spelled")
    assert outcome.reason.startswith(f"Spelled uses w in code of its own: {reason}")
    assert 0.2 < result.weight_shares["fp32"] < 0.6
