"""A trained SavedModel out of a pip wheel: what tuning makes of it, beside LiteRT's own converter.

    pip download --no-deps -d wheels basic-pitch
    python benchmarks/tf/wheels.py --wheels wheels

`--wheels` is a folder of wheels, which are unpacked into a temporary one, or of SavedModels. Inputs and scores are in
`benchmarks/wheel_tasks.py`: a score is the agreement with fp32 on inputs that calibration did not see. Ours is tuned by
that score, to a loss of 0.01. Times are of interleaved calls. Needs `pillow`.
"""

from __future__ import annotations

import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring, wheel_tasks
from benchmarks.tf import common, litert
from benchmarks.tf.common import Array
from inc_autotune import tf_ext

COLUMNS = ("model", "form", "operators", "score", "MB", "ms", "times faster", "s")
CALIBRATION, UNSEEN = 24, 24


def saved_models(options: Any) -> list[Path]:
    """The SavedModels of the folder and of the wheels in it, which have a task."""
    for wheel in options.wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            folders = {str(Path(name).parent) for name in archive.namelist() if name.endswith("/saved_model.pb")}
            for name in archive.namelist():
                if any(name.startswith(f"{folder}/") for folder in folders):
                    archive.extract(name, options.exports / "wheels")
    roots = (options.wheels, options.exports / "wheels")
    found = sorted({path.parent for root in roots for path in root.rglob("saved_model.pb")})
    return [path for path in found if wheel_tasks.task_of(path.name) is not None]


def rows_of(path: Path, options: Any) -> Iterator[list[Any]]:
    task = wheel_tasks.task_of(path.name)
    assert task is not None
    name = input_name(path)
    calibration, unseen = (
        [feed[name] for feed in task.feeds(lambda feed: [], [name], count, seed)] for count, seed in _SETS
    )
    models: list[Any] = []
    expected: list[list[Array]] = []

    def score(model: Any) -> float:
        """The first model of all is fp32; some are too old for `tf.saved_model.load`."""
        found = outputs(model.signatures["serving_default"], name, unseen)
        if not models:
            models.append(model)
            expected.extend(found)
        return task.score(expected, found)

    started = time.perf_counter()
    tuned = tf_ext.autotune(
        path, calibration, score, accuracy_criterion={"absolute": options.tolerance}, progress=False
    )
    seconds = [None, time.perf_counter() - started]
    result = tuned.tuning_result
    print(f"\n{path.name}: {result}", file=sys.stderr)
    target = options.exports / f"{path.name}.ours"
    tf_ext.save(tuned, target)
    int8 = tf.saved_model.load(str(target))
    integer = sum(each.approach is not None for each in result.operators)
    names = ["fp32", "inc_autotune"]
    functions = [each.signatures["serving_default"] for each in (models[0], int8)]
    scores = [task.score(expected, outputs(function, name, unseen)) for function in functions]
    calls: list[Callable[[], Any]] = [partial(function, **{name: tf.constant(unseen[0])}) for function in functions]
    sizes = [common.size(path), common.size(target)]
    operators = ["", f"{integer} of {len(result.operators)}"]
    for form, given in {"LiteRT dynamic": None, "LiteRT full int8": np.concatenate(calibration)}.items():
        begun = time.perf_counter()
        try:
            content = litert.convert(path, given)
            runner = _Runner(content, unseen[0], expected[0], options.threads)
            found = [runner(each) for each in unseen]
        except Exception as error:
            traceback.print_exc()
            yield [path.name, form, type(error).__name__, *[None] * 5]
            continue
        names.append(form)
        scores.append(task.score(expected, found))
        calls.append(runner.again)
        sizes.append(len(content))
        operators.append("")
        seconds.append(time.perf_counter() - begun)
    clock = common.clock(options.threads)
    times = measuring.interleaved(calls, options.repeat, patience=options.patience, clock=clock)
    for row in zip(names, operators, scores, sizes, times, seconds, strict=True):
        form, count, score, size, taken, spent = row
        yield [path.name, form, count, f"{score:.4f}", size / 1e6, 1e3 * taken, times[0] / taken, spent]


_SETS = ((CALIBRATION, 0), (UNSEEN, 1))


def input_name(path: Path) -> str:
    """The name of the only input of the default signature."""
    saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    (name,) = saved.meta_graphs[0].signature_def["serving_default"].inputs
    return str(name)


def outputs(function: Callable[..., dict[str, tf.Tensor]], name: str, given: Sequence[Array]) -> list[list[Array]]:
    """What a signature returns, ordered by name."""
    found = [function(**{name: tf.constant(each)}) for each in given]
    return [[each[result].numpy() for result in sorted(each)] for each in found]


class _Runner:
    """Runs a LiteRT model; its outputs come in the order of fp32's, which their shapes and values tell."""

    def __init__(self, content: bytes, first: Array, expected: Sequence[Array], threads: int) -> None:
        self._interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
        self._given = self._interpreter.get_input_details()[0]["index"]
        self._interpreter.resize_tensor_input(self._given, first.shape)
        self._interpreter.allocate_tensors()
        self.again = self._interpreter.invoke
        self._order = [each["index"] for each in self._interpreter.get_output_details()]
        made = self(first)
        self._order = [self._order[self._nearest(made, each)] for each in expected]

    def __call__(self, given: Array) -> list[Array]:
        self._interpreter.set_tensor(self._given, given)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(each) for each in self._order]

    @staticmethod
    def _nearest(made: Sequence[Array], wanted: Array) -> int:
        distances = [np.abs(each - wanted).sum() if each.shape == wanted.shape else np.inf for each in made]
        return int(np.argmin(distances))


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of wheels or of SavedModels")
    parser.add_argument("--tolerance", type=float, default=0.01, help="loss of score that tuning may cost")
    options = common.parse(parser)
    warnings.simplefilter("ignore")
    rows = [row for path in saved_models(options) for row in rows_of(path, options)]
    measuring.print_table(f"TensorFlow {tf.__version__}, {options.threads} thread", COLUMNS, rows)


if __name__ == "__main__":
    main()
