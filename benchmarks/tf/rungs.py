"""Error at the output, on digits that calibration has not seen: every rung alone, all together, and NNCF's.

    python benchmarks/tf/rungs.py [--task transformer ...] [--peer-python peer_ov/bin/python]

A CNN and a transformer are trained on scikit-learn's digits. The error is the squared one of the logits over the
squared fp32 ones, of a model that `autotune` quantized statically without an evaluation, so that nothing falls back.
`nearest`: not smoothed, rounded to nearest, not corrected; then with each rung alone; `auto`: what tuning takes by its
held-out samples, which are not those that the table is of. `--peer-python` names an environment with NNCF, see
`peers/nncf_outputs.py`, which gets the SavedModel.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring, rungs
from benchmarks.tf import common
from benchmarks.tf.output_errors import Task, error, parser, tasks
from inc_autotune import tf_ext
from inc_autotune.core.analysis import relative_error


def tuned_error(task: Task, recipes: Mapping[str, Any]) -> float:
    tuned = tf_ext.autotune(
        task.source,
        task.data,
        approach="static",
        recipes=dict(recipes),
        # By speed, the machine would have a say in what is quantized.
        objective="modelsize",
        progress=False,
    )
    return error(task, tuned)


def peer_error(python: str, name: str, task: Task, threads: int) -> float:
    found = rungs.peer_outputs(
        python,
        task.source,
        {"x": task.calibration[0]},
        {"x": task.unseen},
        is_transformer=name == "transformer",
        threads=threads,
    )
    # A loaded model's functions do not keep it.
    loaded = tf.saved_model.load(str(task.source))
    return relative_error([loaded.serve(task.unseen).numpy()], [found])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--peer-python", help="of an environment with NNCF")
    options = common.parse(arguments)
    rows = []
    for name, task in tasks(options):
        peer = partial(peer_error, options.peer_python, name, task, options.threads) if options.peer_python else None
        rows.append(rungs.row(name, "as trained", partial(tuned_error, task), peer))
    measuring.print_table("Relative squared error at the output", rungs.COLUMNS, rows)


if __name__ == "__main__":
    main()
