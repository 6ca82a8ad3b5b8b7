"""Speed of int8 models in ONNX Runtime against fp32, with what onnxruntime's own quantizer makes.

    python benchmarks/ort/speed.py [--workloads DIR]

Models: MiniLM-L6 exported with `torch.onnx.export(dynamo=True)` (1 x 32, 1 x 128 and 8 x 128 tokens) and a ResNet-20
(width 16 and 64, 32 images of 32 x 32; with workloads the one of width 16 is a trained one). Ours are tuned without
evaluation. All forms of a model are timed in turn. `cosine` is that of the outputs to fp32's, on sentences or images
that calibration did not see. Goals: MiniLM 3.5 times at 1 x 32 and 2.8 times at 8 x 128, ResNet of width 64 3 times.
`--profile` lists the operators of MiniLM in fp32 and of ours, instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common, models, quantizer
from benchmarks.ort.profiling import print_profile
from inc_autotune import ort_ext

Session = onnxruntime.InferenceSession

SHAPES = ((1, 32), (1, 128), (8, 128))
COLUMNS = ("model", "shape", "form", "ms", "times faster", "MB", "cosine")


def ours(
    path: Path, calibration: Any, options: argparse.Namespace, **arguments: Any
) -> tuple[ort_ext.TunedModel, Callable[[str], Session]]:
    """Our model, and its session in a form."""
    make_options = common.options_of(options.threads)
    tuned = ort_ext.autotune(path, calibration, session_options=make_options, progress=False, **arguments)
    return tuned, lambda form: ort_ext.session(tuned, session_options=make_options, form=form)


def minilm_forms(path: Path, options: argparse.Namespace) -> Iterator[tuple[str, Session, float]]:
    """(form, session, MB) of each."""
    calibration = models.sentences(100, 32)
    yield "fp32", common.file_session(path, options.threads), megabytes(path)
    alpha = {"smoothquant_args": measuring.AUTO_ALPHA}
    tuned, session = ours(path, calibration, options, **alpha)
    for form in ("cpu", "qdq"):
        yield f"int8 smoothed, {form}", session(form), saved_megabytes(tuned, options.exports, form)
    tuned, session = ours(path, calibration, options, recipes={"smooth_quant": False})
    yield "int8 not smoothed, cpu", session("cpu"), saved_megabytes(tuned, options.exports, "cpu")
    tuned, session = ours(path, calibration, options, approach="dynamic")
    yield "int8 dynamic, cpu", session("cpu"), saved_megabytes(tuned, options.exports, "cpu")
    tuned, session = ours(path, calibration, options, objective="modelsize", **alpha)
    yield "int8 with embeddings, cpu", session("cpu"), saved_megabytes(tuned, options.exports, "cpu")
    static = quantizer.static(path, calibration, options.exports, ["MatMul"])
    dynamic = quantizer.dynamic(path, options.exports)
    for name, each in (("onnxruntime static", static), ("onnxruntime dynamic", dynamic)):
        yield name, common.file_session(each.path, options.threads), megabytes(each.path)


def resnet_forms(path: Path, options: argparse.Namespace) -> Iterator[tuple[str, Session, float]]:
    calibration = [models.images(10, seed) for seed in range(10)]
    yield "fp32", common.file_session(path, options.threads), megabytes(path)
    tuned, session = ours(path, calibration, options)
    for form in ("cpu", "qdq"):
        yield f"int8, {form}", session(form), saved_megabytes(tuned, options.exports, form)
    static = quantizer.static(path, calibration, options.exports)
    yield "onnxruntime static", common.file_session(static.path, options.threads), megabytes(static.path)


def megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def saved_megabytes(tuned: ort_ext.TunedModel, folder: Path, form: str) -> float:
    path = folder / "saved.onnx"
    ort_ext.save(tuned, path, form=form)
    return megabytes(path)


def rows_of(
    model: str, forms: list[tuple[str, Session, float]], feeds: dict[str, Any], unseen: Any, options: argparse.Namespace
) -> Iterator[list[Any]]:
    sessions = [session for _, session, _ in forms]
    cosines = [common.output_cosine(session, sessions[0], unseen) for session in sessions]
    if "attention_mask" in unseen:
        expected = common.embeddings(sessions[0], [unseen])
        cosines = [common.cosine(common.embeddings(session, [unseen]), expected) for session in sessions]
    for shape, feed in feeds.items():
        seconds = common.session_seconds(sessions, feed, options)
        for (form, _, size), taken, similar in zip(forms, seconds, cosines, strict=True):
            yield [model, shape, form, 1e3 * taken, seconds[0] / taken, f"{size:.1f}", f"{similar:.5f}"]


def profile_minilm(path: Path, options: argparse.Namespace) -> None:
    tuned, _ = ours(path, models.sentences(100, 32), options, smoothquant_args=measuring.AUTO_ALPHA)
    make_options = common.options_of(options.threads)
    for batch, length in ((1, 32), (8, 128)):
        feed = models.tokens(batch, length)
        forms: dict[str, Callable[[Callable[[], Any]], Session]] = {
            "fp32": lambda options_of: Session(str(path), options_of(), providers=["CPUExecutionProvider"]),
            "int8": partial(ort_ext.session, tuned, None),
        }
        for name, make in forms.items():
            print_profile(f"MiniLM-L6, {batch}x{length}, {name}", make, make_options, feed, options.exports)


def main() -> None:
    parser = common.parser(__doc__, workloads="optional")
    parser.add_argument("--model", choices=("minilm", "resnet"), action="append", help="repeatable; default: both")
    parser.add_argument("--profile", action="store_true", help="where MiniLM's time goes")
    options = common.parse(parser)
    quantizer.silence()
    if options.profile:
        profile_minilm(models.minilm(options.exports), options)
        return
    rows: list[list[Any]] = []
    chosen = options.model or ["minilm", "resnet"]
    if "minilm" in chosen:
        forms = list(minilm_forms(models.minilm(options.exports), options))
        feeds = {f"{batch}x{length}": models.tokens(batch, length) for batch, length in SHAPES}
        unseen = models.sentences(128, 64, first=100, batch_size=128)[0]
        rows += rows_of("MiniLM-L6", forms, feeds, unseen, options)
    for width in (16, 64) if "resnet" in chosen else ():
        path = models.resnet20(options.exports, width)
        if width == 16 and options.workloads is not None:
            path = options.exports / "resnet20_trained.onnx"
            if not path.exists():
                models.export_images(measuring.import_workloads(options.workloads).resnet_cifar(20).model, path)
        forms = list(resnet_forms(path, options))
        feeds = {"32 images": models.images(32, seed=99)}
        rows += rows_of(f"ResNet-20, width {width}", forms, feeds, models.images(64, seed=98), options)
    measuring.print_table(f"onnxruntime {onnxruntime.__version__}, {options.threads} thread", COLUMNS, rows)


if __name__ == "__main__":
    main()
