"""Small random checkpoints of several architectures."""

import torch

WORDS = 96
INT4 = {"Linear|Conv1D": {"weight": {"dtype": ["int4"]}}}
FAST = {
    "smooth_quant": False,
    "weight_rounding": "second_moment",
    "fast_bias_correction": False,
    "weight_correction": False,
}

_SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": ("LlamaConfig", {**_SIZES, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2Config", {**_SIZES, "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 8}),
    "mistral": ("MistralConfig", {**_SIZES, "num_key_value_heads": 2}),
    "gpt_neox": ("GPTNeoXConfig", _SIZES),
    "opt": (
        "OPTConfig",
        {
            **{key: value for key, value in _SIZES.items() if key != "intermediate_size"},
            "ffn_dim": 128,
            "word_embed_proj_dim": 64,
        },
    ),
    "gpt2": ("GPT2Config", {"vocab_size": WORDS, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64}),
}


def written(kind, folder, *, dtype=torch.float32, **settings):
    """The model that is written to a folder in several files."""
    import transformers

    name, sizes = CONFIGS[kind]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**sizes, **settings}))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.05)
    model = model.eval().to(dtype)
    model.save_pretrained(folder, max_shard_size="60KB")
    return model


def texts():
    """Batches of token ids."""
    random = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(0, WORDS, (4, 16), generator=random)} for _ in range(3)]
