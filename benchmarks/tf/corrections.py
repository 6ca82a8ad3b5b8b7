"""Error at the output, on digits that calibration has not seen: corrections off, one by one, together, and "auto".

    python benchmarks/tf/corrections.py

A CNN and a transformer are trained on scikit-learn's digits. The error is the squared one of the logits over the
squared fp32 ones. Everything that can be is quantized statically, without smoothing; nothing is evaluated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common, models
from inc_autotune import tf_ext
from inc_autotune.core.analysis import relative_error
from inc_autotune.core.vocabulary import CORRECTIONS

COLUMNS = ("model", "off", "bias", "weight", "both", '"auto" takes')
CHOICES = ((False, False), (True, False), (False, True), (True, True), ("auto", "auto"))


def row(train: Callable[[models.Digits], Any], digits: models.Digits, folder: Path) -> list[Any]:
    source = common.export(train(digits), folder / train.__name__)
    images, _ = digits.test
    loaded = tf.saved_model.load(str(source))  # whose functions do not keep it
    expected = loaded.serve(images).numpy()
    errors, taken = [], ""
    for choices in CHOICES:
        tuned = tf_ext.autotune(
            source,
            tf.data.Dataset.from_tensor_slices(digits.train).batch(common.BATCH),
            recipes={**dict(zip(CORRECTIONS, choices, strict=True)), "smooth_quant": False},
            # By speed, the machine would have a say in what is quantized.
            objective="modelsize",
            progress=False,
        )
        int8 = tf_ext.convert(tuned)
        outputs = np.concatenate([int8(batch).numpy() for batch in common.batches(images)])
        errors.append(f"{relative_error([expected], [outputs]):.2e}")
        if choices == CHOICES[-1]:
            taken = tuned.tuning_result.corrections[0][0]
    return [train.__name__, *errors[:4], taken]


def main() -> None:
    options = common.parse(common.parser(__doc__))
    digits = models.Digits()
    rows = [row(train, digits, options.exports) for train in (models.trained_cnn, models.trained_transformer)]
    measuring.print_table("Relative squared error at the output", COLUMNS, rows)


if __name__ == "__main__":
    main()
