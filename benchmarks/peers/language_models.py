"""A causal language model through other quantizers: perplexity on the windows of `torch/language_model.py`.

Install (Python 3.11, CPU):

    python -m venv peer_lm
    peer_lm/bin/pip install torch==2.13.0 llmcompressor==0.14.0.1 torchao==0.18.0

    python benchmarks/torch/language_model.py --model FOLDER --gguf FILE --save FLOAT
    peer_lm/bin/python benchmarks/peers/language_models.py FLOAT

Settings are those that each documents, with the calibration windows of `torch/language_model.py` as samples. The head
stays in float, as their documentation has it. AutoRound, which llm-compressor brings, trains its roundings for
`--iterations` steps a block (it suggests 200) of two windows. Each form starts from the float model. AWQ of
llm-compressor is not here, for it needs an accelerator.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import measure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="what `torch/language_model.py --save` wrote")
parser.add_argument("--only", nargs="+", help="names of forms")
parser.add_argument("--iterations", type=int, default=200, help="of AutoRound")
parser.add_argument("--threads", type=int, default=1)
options = parser.parse_args()
measure.limit_threads(options.threads)

import torch  # noqa: E402 - the thread count must be set first
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

torch.set_num_threads(options.threads)


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(options.folder)


def compressed(model: Any, windows: torch.Tensor, *modifiers: Any) -> Any:
    """`model`, as llm-compressor changes it with `modifiers`."""
    from datasets import Dataset
    from llmcompressor import oneshot

    samples = Dataset.from_dict({"input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()})
    sizes = {"num_calibration_samples": len(windows), "max_seq_length": windows.shape[1]}
    settings = {"tokenizer": tokenizer(), "shuffle_calibration_samples": False}
    return oneshot(model=model, dataset=samples, recipe=list(modifiers), **settings, **sizes)


def weights(bits: int, group: int | None, symmetric: bool) -> dict[str, Any]:
    """The argument `config_groups` of llm-compressor for weights alone."""
    kind = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    settings = {"num_bits": bits, "type": "int", "symmetric": symmetric, **kind}
    return {"group_0": {"targets": ["Linear"], "weights": settings}}


def gptq(bits: int, group: int | None, symmetric: bool, model: Any, windows: torch.Tensor) -> Any:
    from llmcompressor.modifiers.gptq import GPTQModifier

    groups = weights(bits, group, symmetric)
    return compressed(model, windows, GPTQModifier(config_groups=groups, ignore=["lm_head"]))


def smoothed_gptq(static: bool, model: Any, windows: torch.Tensor) -> Any:
    """SmoothQuant, then GPTQ: weights by channel, activations by token while it runs or by tensor beforehand."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    if not static:
        quantizer = GPTQModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"])
    else:
        groups = weights(8, None, True)
        groups["group_0"]["input_activations"] = {
            "num_bits": 8,
            "type": "int",
            "symmetric": False,
            "strategy": "tensor",
            "dynamic": False,
        }
        quantizer = GPTQModifier(config_groups=groups, ignore=["lm_head"])
    return compressed(model, windows, SmoothQuantModifier(smoothing_strength=0.8), quantizer)


def auto_round(bits: int, group: int, symmetric: bool, model: Any, windows: torch.Tensor) -> Any:
    from auto_round import AutoRound

    samples = [{"input_ids": each[None], "attention_mask": torch.ones_like(each[None])} for each in windows]
    rounder = AutoRound(
        model,
        tokenizer(),
        bits=bits,
        group_size=group,
        sym=symmetric,
        iters=options.iterations,
        nsamples=len(windows),
        seqlen=windows.shape[1],
        batch_size=2,
        dataset=samples,
        device_map="cpu",
    )
    return rounder.quantize()[0]


def torchao(name: str, settings: dict[str, Any], model: Any, windows: torch.Tensor) -> Any:
    """A configuration of torchao, whose kernels need bfloat16 for 4 bits and take float32 else."""
    from torchao import quantization

    quantization.quantize_(model, getattr(quantization, name)(**settings))
    return model


def grouped(bits: int, group: int, symmetric: bool) -> Callable[..., Any]:
    from torchao import quantization

    kind = quantization.MappingType.SYMMETRIC if symmetric else quantization.MappingType.ASYMMETRIC
    settings = {
        "weight_dtype": getattr(torch, f"int{bits}"),
        "granularity": quantization.PerGroup(group),
        "mapping_type": kind,
    }
    return partial(torchao, "IntxWeightOnlyConfig", settings)


def forms() -> dict[str, Callable[[Any, torch.Tensor], Any]]:
    """What makes each quantized model from the float one and the calibration windows."""
    found: dict[str, Callable[[Any, torch.Tensor], Any]] = {
        "llm-compressor, SmoothQuant + GPTQ, int8 by token": partial(smoothed_gptq, False),
        "llm-compressor, SmoothQuant + GPTQ, int8 static": partial(smoothed_gptq, True),
        "llm-compressor, GPTQ, int8 weights": partial(gptq, 8, None, True),
        "torchao, int8 weights": partial(torchao, "Int8WeightOnlyConfig", {}),
        "torchao, int8 dynamic": partial(torchao, "Int8DynamicActivationInt8WeightConfig", {}),
    }
    for group in (32, 64):
        for symmetric in (True, False):
            kind = f"int4, groups of {group}, {'symmetric' if symmetric else 'asymmetric'}"
            found[f"llm-compressor, GPTQ, {kind}"] = partial(gptq, 4, group, symmetric)
            found[f"AutoRound, {kind}"] = partial(auto_round, 4, group, symmetric)
            found[f"torchao, to nearest, {kind}"] = grouped(4, group, symmetric)
    return found


@torch.no_grad()
def score(model: Any, windows: torch.Tensor) -> float:
    """Mean log-likelihood in nats of the tokens of each window, then of the windows."""
    scores = []
    for window in windows:
        logits = model(window[None], use_cache=False).logits[0, :-1].float()
        scores.append(logits.log_softmax(-1).gather(1, window[1:, None]).mean())
    return float(torch.stack(scores).mean())


def main() -> None:
    windows = load_file(options.folder / "windows.safetensors")
    load = partial(AutoModelForCausalLM.from_pretrained, options.folder, dtype=torch.float32)
    exact = score(load().eval(), windows["evaluate"])
    rows = [("fp32", exact, 0.0)]
    made = forms()
    for name in options.only or made:
        model, started = load().eval(), measure.cpu_seconds()
        model = made[name](model, windows["calibrate"])
        seconds = measure.cpu_seconds() - started
        rows.append((name, score(model.eval(), windows["evaluate"]), seconds))
        print(json.dumps(dict(zip(("form", "score", "cpu_s"), rows[-1], strict=True))), file=sys.stderr, flush=True)
    for package in ("llmcompressor", "auto-round", "torchao", "torch", "transformers"):
        print(f"{package} {version(package)}")
    print("| | perplexity | over fp32 | CPU s |\n|---|--:|--:|--:|")
    for name, value, seconds in rows:
        print(f"| {name} | {math.exp(-value):.3f} | {100 * (math.exp(exact - value) - 1):+.2f} % | {seconds:.0f} |")


if __name__ == "__main__":
    main()
