"""Convolutional nets that are trained first: scores and speed of int8 models, ours and those of other quantizers.

    pip install torchao onnxscript onnxruntime scikit-learn
    python benchmarks/torch/trained_nets.py [--nets MobileNetV2] [--batch 8] [--epochs 8]

The nets of `digits.py` learn the digits of scikit-learn, a minute each, and are tuned with a goal of 0.5 %, on images
that no net has seen. `PT2E` is torchao's X86InductorQuantizer, compiled with freezing; `onnxruntime static` is the
quantizer of onnxruntime after its own preprocessing, weights per channel. Both quantize all they can and evaluate
nothing. `times faster` is over the fp32 model of the same runtime: eager, compiled, or a session.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.digits import SIZE, TASKS, Images, Task, images, tested, trained
from inc_autotune import torch_ext

COLUMNS = ("net", "form", "score", "ms", "times faster", "operators in int8")
GOAL = {"relative": 0.005}
CALIBRATION = 10

Run = Callable[[Tensor], Tensor]


def score_of(task: Task, run: Run, data: Images) -> float:
    with torch.no_grad():
        return float(task.score(run(data.pixels), data).mean())


def calibration() -> list[Tensor]:
    """Images as in training, ten at a time."""
    return list(images(0, 10 * CALIBRATION, seed=2000).pixels.split(10))


def compiled(model: nn.Module, x: Tensor) -> Run:
    """By inductor, with weights frozen into the code."""
    import torch._inductor.config as inductor

    with torch.no_grad(), inductor.patch(freezing=True):
        run: Run = torch.compile(copy.deepcopy(model), dynamic=False)
        run(x)

    def call(x: Tensor) -> Tensor:
        with inductor.patch(freezing=True):
            return run(x)

    return call


def torch_rows(
    name: str, task: Task, model: nn.Module, data: Images, options: argparse.Namespace
) -> Iterator[list[Any]]:
    x = data.pixels[: options.batch]
    expected = score_of(task, model, data)
    tuned = torch_ext.autotune(
        model,
        calibration(),
        eval_func=lambda candidate: score_of(task, candidate, data),
        accuracy_criterion=GOAL,
        example_inputs=x,
        progress=False,
    )
    converted = torch_ext.convert(tuned)
    score = score_of(task, converted, data)
    count = integers(tuned.tuning_result)
    rows: list[tuple[str, float, Run, str, str]] = [
        ("fp32, eager", expected, model, "", "fp32, eager"),
        ("int8, eager", score, converted, count, "fp32, eager"),
        ("fp32, traced", expected, common.traced(model, x), "", "fp32, eager"),
        ("int8, traced", score, common.traced(converted, x), count, "fp32, eager"),
        ("fp32, compiled", expected, compiled(model, x), "", "fp32, compiled"),
        ("int8, compiled", score, compiled(converted, x), count, "fp32, compiled"),
    ]
    if find_spec("torchao") is not None:
        peer = pt2e(model, x)
        rows.append(("PT2E, compiled", score_of(task, peer, data), compiled(peer, x), "all", "fp32, compiled"))
    with torch.no_grad():
        taken = common.interleaved([lambda run=run: run(x) for _, _, run, _, _ in rows], options.repeat)
    times = {form: each for (form, *_), each in zip(rows, taken, strict=True)}
    for form, scored, _, operators, baseline in rows:
        yield [name, form, scored, 1e3 * times[form], times[baseline] / times[form], operators]


def integers(result: Any) -> str:
    """How many of the operators with weights are int8."""
    types = [operator.dtype for operator in result.operators]
    return f"{types.count('int8')} of {len(types)}"


def pt2e(model: nn.Module, x: Tensor) -> nn.Module:
    """What `torchao.quantization.pt2e` makes of a model for inductor."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(model, (torch.cat([x, x]),), dynamic_shapes=(batch,)).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for batch_of_images in calibration():
            prepared(batch_of_images)
    result: nn.Module = move_exported_model_to_eval(convert_pt2e(prepared))
    return result


def session_rows(
    name: str, task: Task, model: nn.Module, data: Images, options: argparse.Namespace
) -> Iterator[list[Any]]:
    from benchmarks.ort import common as ort_common
    from benchmarks.ort import quantizer
    from inc_autotune import ort_ext

    folder = Path(tempfile.mkdtemp(prefix="trained_nets_"))
    path = folder / "net.onnx"
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        model,
        (data.pixels[:2],),
        dynamo=True,
        dynamic_shapes=(batch,),
        input_names=["x"],
        opset_version=18,
        verbose=False,
    )
    program.save(str(path))
    feeds = [{"x": batch.numpy()} for batch in calibration()]

    def runner(session: Any) -> Run:
        return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])

    tuned = ort_ext.autotune(
        path,
        feeds,
        eval_func=lambda session: score_of(task, runner(session), data),
        accuracy_criterion=GOAL,
        session_options=ort_common.options_of(options.threads),
        example_inputs={"x": data.pixels[: options.batch].numpy()},
        progress=False,
    )
    paths = {"fp32, session": path, "int8, session": folder / "int8.onnx"}
    ort_ext.save(tuned, paths["int8, session"])
    quantizer.silence()
    paths["onnxruntime static"] = quantizer.static(quantizer.preprocessed(path, folder), feeds, folder).path
    sessions = {form: ort_common.file_session(each, options.threads) for form, each in paths.items()}
    x = {"x": data.pixels[: options.batch].numpy()}
    taken = ort_common.session_seconds(list(sessions.values()), x, options)
    counts = {"int8, session": integers(tuned.tuning_result), "onnxruntime static": "all"}
    for (form, session), each in zip(sessions.items(), taken, strict=True):
        score = score_of(task, runner(session), data)
        yield [name, form, score, 1e3 * each, taken[0] / each, counts.get(form, "")]


def rows_of(name: str, options: argparse.Namespace) -> Sequence[list[Any]]:
    task, data = TASKS[name], tested()
    model = trained(task, options.epochs)
    rows = list(torch_rows(name, task, model, data, options))
    if find_spec("onnxruntime") is not None and find_spec("onnxscript") is not None:
        rows += session_rows(name, task, model, data, options)
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, repeat=9)
    parser.add_argument("--nets", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--batch", type=int, default=1, help="images in each run")
    parser.add_argument("--epochs", type=int, default=8)
    options = common.parse(parser)
    title = f"torch {torch.__version__}, {options.threads} thread, {options.batch} x 3 x {SIZE} x {SIZE}"
    for name in options.nets:
        measuring.print_table(title, COLUMNS, rows_of(name, options))


if __name__ == "__main__":
    main()
