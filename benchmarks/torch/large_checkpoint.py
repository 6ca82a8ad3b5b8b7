"""A language model that does not fit into memory, quantized to int4 block by block: memory, seconds and bytes.

    python benchmarks/torch/large_checkpoint.py [--blocks 32] [--rounding second_moment] [--folder DIR]

Writes a checkpoint of the widths of Llama 2 7B with random bf16 weights, one shard a block, without ever holding the
model; quantizes it with `quantize_checkpoint` on a few windows of random tokens; loads it with `from_pretrained`. Each
of the three is a process of its own, so that its largest resident memory is known. Nothing is said of accuracy: the
weights are random. Nothing is smoothed; weights are rounded to nearest or by second moments. With `--rounding auto`
both are searched for, as tuning does by default, which takes several times as long.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

INDEX = "model.safetensors.index.json"
RULES = {"Linear": {"weight": {"dtype": ["int4"]}}}
FIXED = {"smooth_quant": False, "fast_bias_correction": False, "weight_correction": False}


def write_checkpoint(folder: Path, blocks: int) -> None:
    """Random bf16 weights, one file for each block."""
    import transformers
    from safetensors.torch import save_file

    config = transformers.LlamaConfig(num_hidden_layers=blocks)  # the widths of 7B are its defaults
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in transformers.LlamaForCausalLM(config).state_dict().items()}
    random, place = torch.Generator().manual_seed(0), {}
    parts: dict[str, list[str]] = {}
    for name in shapes:
        parts.setdefault(name.split(".")[2] if ".layers." in name else "around", []).append(name)
    total = 0
    for number, names in enumerate(parts.values(), start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = {}
        for name in names:
            values = torch.empty(shapes[name], dtype=torch.bfloat16)
            tensors[name] = values.fill_(1) if len(shapes[name]) == 1 else values.normal_(0, 0.02, generator=random)
            total += values.nbytes
        save_file(tensors, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": place}))
    description = {**config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(description))


def quantize(folder: Path, output: Path, windows: int, tokens: int, rounding: str) -> None:
    """Print what `quantize_checkpoint` found."""
    from inc_autotune import torch_ext

    torch.manual_seed(0)
    batches = [torch.randint(0, 32000, (1, tokens)) for _ in range(windows)]
    recipes = None if rounding == "auto" else {**FIXED, "weight_rounding": rounding}
    result = torch_ext.quantize_checkpoint(folder, batches, output, op_type_dict=RULES, recipes=recipes)
    print(result, flush=True)


def use(output: Path) -> None:
    """Load the folder and make some words."""
    from inc_autotune import torch_ext

    started = time.monotonic()
    model: Any = torch_ext.from_pretrained(output)
    print(f"loaded in {time.monotonic() - started:.0f} s, {peak():.2f} GB at most", flush=True)
    with torch.no_grad():
        ids = torch.arange(1, 9).unsqueeze(0)
        started = time.monotonic()
        model.generate(ids, max_new_tokens=8, do_sample=False)
    print(f"8 tokens behind 8 in {time.monotonic() - started:.1f} s", flush=True)


def peak() -> float:
    """Largest resident memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def measured(what: str, function: Any, *arguments: Any) -> None:
    """Run a function and print the seconds and the memory that this process took for it."""
    started = time.monotonic()
    function(*arguments)
    print(f"{what}: {time.monotonic() - started:.0f} s, {peak():.2f} GB resident at most", flush=True)


def alone(what: str, function: Any, *arguments: Any) -> None:
    """The same in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=measured, args=(what, function, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{what} failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--windows", type=int, default=4, help="to calibrate on")
    parser.add_argument("--tokens", type=int, default=128, help="of a window")
    parser.add_argument("--rounding", choices=("nearest", "second_moment", "auto"), default="second_moment")
    parser.add_argument("--folder", type=Path, help="keeps what is made; default: a temporary folder")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    source, output = folder / "checkpoint", folder / f"quantized-{options.rounding}"
    try:
        if not (source / "config.json").exists():
            source.mkdir(parents=True, exist_ok=True)
            alone("writing the checkpoint", write_checkpoint, source, options.blocks)
        alone("quantizing", quantize, source, output, options.windows, options.tokens, options.rounding)
        alone("using it", use, output)
        for place in (source, output):
            size = sum(file.stat().st_size for file in place.glob("*.safetensors"))
            print(f"{place.name}: {size / 1e9:.2f} GB", flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
