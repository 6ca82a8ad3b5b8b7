"""What can be done with the model that convert returns."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from tests.torch.small_models import (
    FEATURES,
    CalledTwice,
    Encoder,
    Text,
    bert,
    error,
    first_tensor,
    gpt2,
    id_batches,
    image_batches,
    outlier_mlp,
    padded,
    small_cnn,
    tune,
    vectors,
)

IDS = id_batches()[0]

FRESH_PROCESS = """
import sys
import torch
for name in ("mlp", "cnn", "bert"):
    model = torch.jit.load(f"{sys.argv[1]}/{name}.pt")
    inputs, expected = torch.load(f"{sys.argv[1]}/{name}.data")
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    output = output if torch.is_tensor(output) else output["last_hidden_state"]
    assert torch.equal(output, expected), (name, (output - expected).abs().max())
assert "inc_autotune" not in sys.modules
"""


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def quantized() -> dict[str, tuple[nn.Module, object]]:
    """Converted models with inputs."""
    smoothed = {"smoothquant_args": {"alpha": 0.6}}
    texts = [padded(ids) for ids in id_batches()]
    return {
        "mlp": (torch_ext.convert(tune(outlier_mlp(), vectors(), **smoothed)), vectors()[0]),
        "dynamic": (torch_ext.convert(tune(outlier_mlp(), vectors(), approach="dynamic", **smoothed)), vectors()[0]),
        "cnn": (torch_ext.convert(tune(small_cnn(), image_batches())), image_batches()[0]),
        "text": (torch_ext.convert(tune(Text().eval(), id_batches(), objective="modelsize")), IDS),
        "bert": (torch_ext.convert(tune(bert(), texts, **smoothed)), texts[0]),
        "gpt2": (torch_ext.convert(tune(gpt2(), texts)), texts[0]),
    }


NAMES = ("mlp", "dynamic", "cnn", "text", "bert", "gpt2")


def call(model, inputs):
    return first_tensor(model(**inputs) if isinstance(inputs, dict) else model(inputs))


def traced(model, inputs):
    given = {"example_kwarg_inputs": inputs} if isinstance(inputs, dict) else {"example_inputs": inputs}
    return torch.jit.freeze(torch.jit.trace(model, **given, strict=False))


@pytest.mark.parametrize("name", NAMES)
def test_copied_pickled_and_loaded_from_a_state_dict(quantized, name):
    model, inputs = quantized[name]
    expected = call(model, inputs)
    assert torch.equal(call(copy.deepcopy(model), inputs), expected)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(call(loaded, inputs), expected)
    assert str(loaded.tuning_result) == str(model.tuning_result)
    scrambled = copy.deepcopy(model)
    for value in scrambled.state_dict().values():
        value.copy_(value.flip(0) if value.ndim else value)
    scrambled.load_state_dict(scrambled.state_dict())
    assert not torch.equal(call(scrambled, inputs), expected)
    scrambled.load_state_dict(model.state_dict())
    assert torch.equal(call(scrambled, inputs), expected)


@pytest.mark.parametrize("name", ["mlp", "dynamic", "cnn", "text", "bert"])
def test_traced_model_gives_the_same_bits(quantized, name):
    model, inputs = quantized[name]
    frozen = traced(model, inputs)
    output = frozen(**inputs) if isinstance(inputs, dict) else frozen(inputs)
    assert torch.equal(output["last_hidden_state"] if isinstance(output, dict) else output, call(model, inputs))


def test_a_causal_language_model_is_traced_through_its_logits(quantized):
    class Logits(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids, use_cache=False).logits

    model = Logits(quantized["gpt2"][0]).eval()
    frozen = traced(model, IDS)
    assert torch.equal(frozen(IDS), model(IDS))
    assert torch.equal(frozen(IDS[:2, :7]), model(IDS[:2, :7]))


def test_traced_models_are_loaded_in_a_fresh_process(quantized, tmp_path):
    for name in ("mlp", "cnn", "bert"):
        model, inputs = quantized[name]
        traced(model, inputs).save(tmp_path / f"{name}.pt")
        torch.save((inputs, call(model, inputs)), tmp_path / f"{name}.data")
    code = f"import torch\ntorch.set_num_threads(1)\n{FRESH_PROCESS}"
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


class HiddenStates(nn.Module):
    """Keyword inputs and a model output class are for transformers; exported programs return tensors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def test_exported_with_dynamic_batch_and_sequence(quantized, tmp_path):
    model = HiddenStates(quantized["bert"][0]).eval()
    inputs = padded(IDS)
    dynamic = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=64)}
    shapes = {"input_ids": dynamic, "attention_mask": dynamic}
    torch.export.save(torch.export.export(model, (), kwargs=inputs, dynamic_shapes=shapes), tmp_path / "model.pt2")
    exported = torch.export.load(tmp_path / "model.pt2").module()
    operators = str(exported.graph)
    assert operators.count("quantized_decomposed.quantize_per_tensor") >= 4, "one for each input group"
    for ids in (IDS, IDS[:2, :7], IDS[:1, :3]):
        assert error(exported(**padded(ids)), model(**padded(ids))) < 1e-4


def test_an_image_model_is_exported_with_a_dynamic_batch(quantized):
    model, images = quantized["cnn"]
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)).module()
    assert error(exported(images[:3]), model(images[:3])) < 1e-3


def test_compiled(quantized):
    model, inputs = quantized["mlp"]
    import torch._inductor.config as inductor

    with inductor.patch(freezing=True):
        compiled = torch.compile(model)
        assert error(compiled(inputs), model(inputs)) < 1e-4


def test_another_batch_size(quantized):
    model, inputs = quantized["mlp"]
    assert torch.allclose(model(inputs[:1]), model(inputs)[:1], atol=1e-6)
    assert model(inputs[0]).shape == (6,)


def test_the_tuned_model_stays_as_it_is_and_shares_nothing():
    tuned = tune(outlier_mlp(), vectors())
    before = tuned(vectors()[0])
    converted = torch_ext.convert(tuned)
    expected = converted(vectors()[0])
    theirs = {tensor.data_ptr() for tensor in tuned.state_dict().values()}
    ours = [tensor.data_ptr() for tensor in converted.state_dict().values() if tensor.numel()]
    assert theirs.isdisjoint(ours)
    for parameter in tuned.parameters():
        parameter.zero_()
    assert torch.equal(converted(vectors()[0]), expected)
    assert not torch.equal(tuned(vectors()[0]), before)


def test_a_tuned_model_in_train_mode_is_converted_for_use():
    tuned = tune(outlier_mlp(), vectors()).train()
    converted = torch_ext.convert(tuned)
    assert tuned.training
    assert not any(module.training for module in converted.modules())
    assert torch.equal(converted(vectors()[0]), converted(vectors()[0]))


@pytest.mark.parametrize(
    ("make", "inputs"), [(outlier_mlp, vectors()[0]), (small_cnn, image_batches()[0]), (gpt2, padded(IDS))]
)
def test_a_tuned_model_is_copied_and_pickled_as_well(make, inputs):
    tuned = tune(make(), [inputs] * 2)
    expected = call(tuned, inputs)
    buffer = io.BytesIO()
    torch.save(tuned, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(tuned), torch.load(buffer, weights_only=False)):
        assert torch.equal(call(again, inputs), expected)
        assert torch.equal(call(torch_ext.convert(again), inputs), call(torch_ext.convert(tuned), inputs))


def test_weights_are_integers(quantized):
    state = quantized["mlp"][0].state_dict()
    integers = {name for name, value in state.items() if value.dtype == torch.int8}
    assert integers == {f"{name}.integer_weight" for name in ("query", "key", "hidden", "head")}
    assert quantized["text"][0].state_dict()["table.integer_weight"].dtype == torch.uint8


def test_a_module_under_two_names_stays_one_module():
    tuned = tune(CalledTwice().eval(), vectors())
    for model in (tuned, torch_ext.convert(tuned)):
        assert model.shared is model.again[1]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_torch_encoder_is_traced():
    data = [torch.randn(3, 5, FEATURES, generator=torch.Generator().manual_seed(2))] * 2
    model = torch_ext.convert(tune(Encoder().eval(), data))
    assert torch.equal(traced(model, data[0])(data[0]), model(data[0]))
