"""A causal language model in fp32, bf16 and integers: perplexity, bytes, tokens a second, what tuning cost.

    pip install gguf accelerate
    python benchmarks/torch/language_model.py --model FOLDER --gguf FILE [--only "int8 weights" "int4, groups of 32"]

Takes a folder of transformers, with `--gguf` the GGUF file in it that holds weights and tokenizer. The texts are those
that Python's `help` shows (`pydoc_data.topics`): windows of 256 tokens, others to calibrate on than to evaluate. Models
are tuned without an evaluation. Prefill reads one window; decode is one step behind 128 tokens in the cache. All forms
are timed in turn. A pass is one of the fp32 model over the windows to calibrate on, timed before and after each tuning.
"""

from __future__ import annotations

import copy
import math
import pydoc_data.topics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from inc_autotune import torch_ext
from inc_autotune.torch_ext.evaluators import LogLikelihood

WINDOW = 256
CONTEXT = 128


def weights(dtype: str, **weight: list[str]) -> dict[str, Any]:
    """Arguments of a tuning with weights of few bits, also of the table, so that a head tied to it shares them."""
    rule = {"weight": {"dtype": [dtype], **weight}}
    return {"approach": "weight_only", "op_type_dict": {"Linear": rule, "Embedding": rule}}


NEAREST = {"weight_rounding": "nearest", "smooth_quant": False}


def without_head(**weight: list[str]) -> dict[str, Any]:
    """The same for all Linears but the head, which stays in float with its table, as peers have it."""
    floats = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
    rule = {"weight": {"dtype": ["int4"], **weight}}
    return {"approach": "weight_only", "op_type_dict": {"Linear": rule}, "op_name_dict": {"lm_head": floats}}


FORMS: dict[str, dict[str, Any]] = {
    "int8 static": {"approach": "static"},
    "int8 dynamic": {"approach": "dynamic"},
    "int8 dynamic, one range": {
        "approach": "dynamic",
        "op_type_dict": {"Linear": {"activation": {"granularity": ["per_tensor"]}}},
    },
    "int8 weights": {"approach": "weight_only"},
    "int4, groups of 32, to nearest": {**weights("int4", scheme=["sym"]), "recipes": {"weight_rounding": "nearest"}},
    "int4, groups of 32": weights("int4", scheme=["sym"]),
    "int4, groups of 32, not smoothed": {**weights("int4", scheme=["sym"]), "recipes": {"smooth_quant": False}},
    "int4, groups of 32, asymmetric": weights("int4", scheme=["asym"]),
    "int4, groups of 32, head in float": without_head(scheme=["sym"]),
    "int4, groups of 32, asymmetric, head in float": without_head(scheme=["asym"]),
    "int4, groups of 64": weights("int4", scheme=["sym"], granularity=["per_group_64"]),
    "int4, groups of 64, asymmetric": weights("int4", scheme=["asym"], granularity=["per_group_64"]),
    "int3, groups of 32, to nearest": {**weights("int3", scheme=["sym"]), "recipes": NEAREST},
    "int3, groups of 32": {**weights("int3", scheme=["sym"]), "recipes": {"smooth_quant": False}},
    "int3, groups of 32, asymmetric": {**weights("int3", scheme=["asym"]), "recipes": {"smooth_quant": False}},
    "int2, groups of 32, to nearest": {**weights("int2", scheme=["asym"]), "recipes": NEAREST},
    "int2, groups of 32, asymmetric": {**weights("int2", scheme=["asym"]), "recipes": {"smooth_quant": False}},
}


def megabytes(model: nn.Module) -> float:
    """Of what a saved model holds, shared tensors once."""
    sizes = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values() if isinstance(tensor, Tensor)}
    return sum(sizes.values()) / 1e6


def steps(model: nn.Module, tokens: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A prefill of one window, and a step behind `CONTEXT` tokens."""
    from transformers import DynamicCache

    cache = DynamicCache()

    @torch.no_grad()
    def prefill() -> Any:
        return model(tokens.unsqueeze(0), use_cache=False)

    @torch.no_grad()
    def decode() -> Any:
        model(tokens[None, CONTEXT : CONTEXT + 1], past_key_values=cache)
        cache.crop(-1)

    with torch.no_grad():
        model(tokens[None, :CONTEXT], past_key_values=cache)
    return prefill, decode


@torch.no_grad()
def pass_seconds(model: nn.Module, batches: list[Tensor]) -> float:
    """CPU seconds of the fp32 model over the calibration windows."""
    started = common.seconds()
    for batch in batches:
        model(batch, use_cache=False)
    return common.seconds() - started


def main() -> None:
    parser = measuring.parser(__doc__, repeat=5)
    parser.add_argument("--model", type=Path, required=True, help="folder of transformers")
    parser.add_argument("--gguf", help="name of a GGUF file in it")
    parser.add_argument("--only", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--windows", type=int, default=8, help="windows to evaluate on")
    parser.add_argument("--calibrate", type=int, default=12, help="windows to calibrate on")
    parser.add_argument("--save", type=Path, help="a folder for peers/language_models.py to be written; then end")
    options = common.parse(parser)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model, gguf_file=options.gguf)
    texts = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    half = len(texts) // 2
    evaluate = LogLikelihood(texts[:half], tokenizer, window=WINDOW)
    evaluate.windows = [each for each in evaluate.windows if len(each) == WINDOW][: options.windows]
    calibration = LogLikelihood(texts[half:], tokenizer, window=WINDOW)
    batches = [each.unsqueeze(0) for each in calibration.windows if len(each) == WINDOW][: options.calibrate]

    settings = {"gguf_file": options.gguf, "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(options.model, **settings).eval()
    if options.save:
        windows = {"evaluate": torch.stack(evaluate.windows), "calibrate": torch.cat(batches)}
        config = copy.deepcopy(model.config)
        vars(config).pop("quantization_config", None)  # of GGUF, with which transformers saves no model
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(options.save)
        tokenizer.save_pretrained(options.save)
        save_file(windows, str(options.save / "windows.safetensors"))
        return
    forms = {"fp32": model, "bf16": copy.deepcopy(model).bfloat16()}
    costs, passes = dict.fromkeys(forms, 0.0), dict.fromkeys(forms, 0.0)
    pass_seconds(model, batches[:1])
    for name in options.only:
        before, started = pass_seconds(model, batches), common.seconds()
        tuned = torch_ext.autotune(model, [{"input_ids": each} for each in batches], progress=False, **FORMS[name])
        costs[name] = common.seconds() - started
        passes[name] = costs[name] / (before + pass_seconds(model, batches)) * 2
        forms[name] = torch_ext.convert(tuned)
        print(f"{name}: {costs[name]:.0f} s, {passes[name]:.1f} passes", file=sys.stderr, flush=True)
    scores = {name: sum(evaluate(form)) / len(evaluate.windows) for name, form in forms.items()}
    calls = [call for form in forms.values() for call in steps(form, evaluate.windows[0])]
    times = common.interleaved(calls, options.repeat)
    print("| | perplexity | over fp32 | MB | decode, tokens/s | prefill, tokens/s | tuning, CPU s | passes |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for index, (name, form) in enumerate(forms.items()):
        loss = math.exp(scores["fp32"] - scores[name]) - 1
        prefill, decode = times[2 * index : 2 * index + 2]
        print(
            f"| {name} | {LogLikelihood.perplexity(scores[name]):.3f} | {100 * loss:+.2f} % | {megabytes(form):.0f} | "
            f"{1 / decode:.1f} | {WINDOW / prefill:.0f} | {costs[name]:.0f} | {passes[name]:.1f} |"
        )


if __name__ == "__main__":
    main()
