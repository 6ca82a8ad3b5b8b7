"""Keys and values in int8."""

import pytest
import torch

from inc_autotune import torch_ext
from inc_autotune.core.errors import MissingDependencyError
from inc_autotune.torch_ext.hugging_face import key_value_cache

transformers = pytest.importorskip("transformers")
integer_layer = pytest.importorskip("inc_autotune.torch_ext.hugging_face.integer_layer")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def llama(**settings):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SIZES, **settings})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def tokens(batch=2, length=12):
    return torch.randint(1, 64, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_vectors_come_back_rounded(dtype, size):
    torch.manual_seed(0)
    states = (torch.randn(2, 3, 5, 16) * size).to(dtype)
    states[0, 0, 0] = 0

    found = integer_layer.unpacked(integer_layer.packed(states), dtype)

    largest = states.abs().amax(-1, keepdim=True).float()
    assert found.dtype == dtype
    assert torch.equal(found[0, 0, 0], states[0, 0, 0])
    assert bool(((found.float() - states.float()).abs() <= largest * (0.51 / 127 + 2 * torch.finfo(dtype).eps)).all())


@torch.no_grad()
def test_steps_see_what_a_whole_pass_sees():
    model, ids = llama(), tokens()
    exact = model(ids, use_cache=False).logits
    whole = model(ids, past_key_values=torch_ext.int8_cache()).logits
    cache = torch_ext.int8_cache()
    parts = [model(ids[:, start : start + 4], past_key_values=cache).logits for start in range(0, 12, 4)]

    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    error = float((whole - exact).norm() / exact.norm())
    assert 0 < error < 0.02
    assert cache.get_seq_length() == 12


@torch.no_grad()
def test_it_takes_a_quarter_of_the_memory():
    model, ids = llama(num_attention_heads=1, num_key_value_heads=1), tokens()
    sizes = []
    for cache in (transformers.DynamicCache(), torch_ext.int8_cache()):
        model(ids, past_key_values=cache)
        sizes.append(sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers))
    assert sizes[1] == sizes[0] * (64 + 4) / (4 * 64)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=["greedy", "beams", "sampling", "assisted"],
)
def test_generation_of_every_kind(settings):
    batch = 1 if "prompt_lookup_num_tokens" in settings else 2
    torch.manual_seed(0)
    found = llama().generate(
        tokens(batch), max_new_tokens=6, eos_token_id=None, past_key_values=torch_ext.int8_cache(), **settings
    )
    assert found.shape == (batch * settings.get("num_return_sequences", 1), 18)


def test_quantized_models_and_left_padding():
    model, ids = llama(), tokens()
    quantized = torch_ext.convert(torch_ext.autotune(model, [{"input_ids": ids}], approach="dynamic", progress=False))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    arguments = {"attention_mask": mask, "max_new_tokens": 4, "eos_token_id": None, "do_sample": False}

    found = quantized.generate(ids, past_key_values=torch_ext.int8_cache(), **arguments)

    assert found.shape == (2, 16)


def test_sliding_windows():
    torch.manual_seed(0)
    config = transformers.MistralConfig(**SIZES, sliding_window=4)
    model, ids = transformers.AutoModelForCausalLM.from_config(config).eval(), tokens()
    with torch.no_grad():
        exact = model(ids, use_cache=False).logits
        found = model(ids, past_key_values=torch_ext.int8_cache()).logits
    assert float((found - exact).norm() / exact.norm()) < 0.02


def test_encoder_decoders():
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    cache = transformers.EncoderDecoderCache(torch_ext.int8_cache(), transformers.DynamicCache())
    found = model.generate(tokens(), past_key_values=cache, max_new_tokens=4, eos_token_id=None)
    assert found.shape == (2, 5)


def test_old_libraries_are_named(monkeypatch):
    monkeypatch.setattr(transformers.cache_utils, "Cache", lambda: None)
    with pytest.raises(MissingDependencyError, match=r"4\.56"):
        key_value_cache.int8_cache()
