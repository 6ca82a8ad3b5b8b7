"""Keys and values in float32, bfloat16 and int8: memory, and time of a decode step behind texts of several lengths.

    python benchmarks/torch/kv_cache.py [--model FOLDER [--gguf FILE]]

A Llama of SmolLM2-135M's widths with 8 blocks and random weights, one thread, all caches in turn. `bf16` is the whole
model in bfloat16. With `--model`, also the perplexity of a model on windows of 256 tokens of what Python's `help`
shows, without and with the int8 cache.
"""

from __future__ import annotations

import math
import pydoc_data.topics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from inc_autotune import torch_ext
from inc_autotune.torch_ext.evaluators import LogLikelihood

LENGTHS = (512, 2048, 8192)
CHUNK = 512
WORDS = 4096


def llama() -> nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2 * max(LENGTHS),
    )
    return AutoModelForCausalLM.from_config(config).eval()


def megabytes(cache: Any) -> float:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / 1e6


@torch.no_grad()
def read(model: nn.Module, tokens: Tensor, cache: Any) -> Any:
    """The cache behind a text."""
    for start in range(0, tokens.shape[1], CHUNK):
        model(tokens[:, start : start + CHUNK], past_key_values=cache)
    return cache


@torch.no_grad()
def step(model: nn.Module, token: Tensor, cache: Any) -> None:
    model(token, past_key_values=cache)
    cache.crop(-1)


def print_steps(repeat: int) -> None:
    from transformers import DynamicCache

    model, half = llama(), llama().bfloat16()
    print("| tokens | | fp32 | bf16 | int8 |\n|--:|---|--:|--:|--:|")
    for length in LENGTHS:
        tokens = torch.randint(WORDS, (1, length), generator=torch.Generator().manual_seed(0))
        forms = [(model, DynamicCache()), (half, DynamicCache()), (model, torch_ext.int8_cache())]
        caches = [read(form, tokens, cache) for form, cache in forms]
        calls = [partial(step, form, tokens[:, :1], cache) for form, cache in forms]
        times = common.interleaved(calls, repeat)
        print(f"| {length} | cache, MB | " + " | ".join(f"{megabytes(cache):.1f}" for cache in caches) + " |")
        print("| | decode step, ms | " + " | ".join(f"{1e3 * each:.1f}" for each in times) + " |")


class Cached(nn.Module):
    """A model that reads each window with a new cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return self.model(input_ids, past_key_values=torch_ext.int8_cache())


def print_perplexity(folder: Path, gguf: str | None) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32).eval()
    texts = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    evaluate = LogLikelihood(texts[: len(texts) // 2], tokenizer, window=256)
    evaluate.windows = [each for each in evaluate.windows if len(each) == 256][:12]
    exact, rounded = (sum(evaluate(form)) / len(evaluate.windows) for form in (model, Cached(model)))
    print(
        f"perplexity: {LogLikelihood.perplexity(exact):.3f}, with the int8 cache "
        f"{LogLikelihood.perplexity(rounded):.3f} ({100 * (math.exp(exact - rounded) - 1):+.2f} %)"
    )


def main() -> None:
    parser = measuring.parser(__doc__, repeat=9)
    parser.add_argument("--model", type=Path, help="folder of transformers")
    parser.add_argument("--gguf", help="name of a GGUF file in it")
    options = common.parse(parser)
    print_steps(options.repeat)
    if options.model is not None:
        print_perplexity(options.model, options.gguf)


if __name__ == "__main__":
    main()
