"""Tuning a model of a billion random fp32 parameters: peak memory and where the CPU time goes.

    python benchmarks/torch/large.py [--layers 22]

A Llama-shaped model (hidden size 2,048, 22 layers, feed-forward size 5,632, 32 heads with 4 key-value heads, vocabulary
32,000: 1.1 B parameters, 4.1 GiB) is tuned on 8 samples of 32 tokens with `smoothquant_args={"alpha": "auto"}` and an
`eval_func` that costs one forward pass. The goal is a peak below 20 GiB.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common, models
from inc_autotune import torch_ext

VOCABULARY = 32000


def llama(layers: int) -> nn.Module:
    """From a config, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval()


def token_batches(samples: int, length: int) -> list[models.Batch]:
    return [models.token_batch(1, length, VOCABULARY, seed=seed) for seed in range(samples)]


@torch.no_grad()
def main() -> None:
    parser = measuring.parser(__doc__, repeat=5)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    options = common.parse(parser)
    common.count_cpu_seconds_in_phases()
    started = common.seconds()
    model = llama(options.layers)
    made, before = common.seconds() - started, measuring.peak_rss()
    inputs = token_batches(1, options.length)[0]
    expected = model(**inputs).logits

    def similarity(candidate: Any) -> float:
        """Cosine of the logits to the fp32 model's."""
        return float(nn.functional.cosine_similarity(candidate(**inputs).logits, expected, dim=-1).mean())

    started = common.seconds()
    tuned = torch_ext.autotune(
        model,
        token_batches(options.samples, options.length),
        similarity,
        smoothquant_args=measuring.AUTO_ALPHA,
        accuracy_criterion={"relative": 0.5},
        progress=False,
    )
    total, tuned_peak = common.seconds() - started, measuring.peak_rss()
    result = tuned.tuning_result
    started = common.seconds()
    quantized = torch_ext.convert(tuned)
    converting, peak = common.seconds() - started, measuring.peak_rss()
    calls = [lambda: model(**inputs), lambda: quantized(**inputs)]
    forward = common.interleaved(calls, options.repeat)
    parameters = sum(each.numel() for each in model.parameters())
    measuring.print_table(
        f"{parameters / 1e9:.2f} B parameters, {4 * parameters / 2**30:.1f} GiB in fp32; "
        f"{result.evaluations} evaluations, met: {result.met}",
        ("step", "CPU s", "peak GiB so far"),
        [
            ["make the model", made, before / 1024],
            *([f"autotune: {phase}", taken, None] for phase, taken in result.phases.items()),
            ["autotune: other", total - sum(result.phases.values()), None],
            ["autotune", total, tuned_peak / 1024],
            ["convert", converting, peak / 1024],
            [f"forward, 1 x {options.length} tokens, fp32", forward[0], None],
            [f"forward, 1 x {options.length} tokens, int8 eager", forward[1], None],
        ],
    )


if __name__ == "__main__":
    main()
