"""Accuracy of int8 models in TensorFlow: two models trained on digits, and planted outliers.

    python benchmarks/tf/accuracy.py

Scores: a CNN and a transformer, trained here in seconds on scikit-learn's digits, tuned with their accuracy on 500
others; goals: a relative drop of at most 0.5 %, and at most 3 evaluations.

Outliers: the transformer of `tf/speed.py`, in which six channels behind every LayerNormalization are larger, with and
without the weights that read them made smaller in turn. Error of the hidden states of 64 samples that calibration did
not see, without smoothing, with each alpha for the whole model, and as tuned; goals: 5 dB above no smoothing, and no
less than the best of the single alphas. `--pooled` compares ten logits of the mean over all tokens instead; most of the
error cancels in that mean, and what is left depends on chance more than on alpha.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common, models
from inc_autotune import tf_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.core.quantization.smoothquant import alpha_grid

SCORE_COLUMNS = ("model", "fp32", "int8", "drop %", "met", "evals", "seconds", "quantized operators")
SAMPLES = 64
FACTOR = 20.0
ALPHAS = alpha_grid(0.0, 1.0, 0.1)


def score_row(train: Callable[[models.Digits], Any], digits: models.Digits, folder: Path) -> list[Any]:
    """Train, tune and score a model; the tuned one as it is loaded from its file."""
    images, labels = digits.test
    source = common.export(train(digits), folder / train.__name__)

    def accuracy(model: Callable[[Any], tf.Tensor]) -> float:
        return float((model(images).numpy().argmax(-1) == labels).mean())

    tuned = tf_ext.autotune(
        source,
        tf.data.Dataset.from_tensor_slices(digits.train).batch(common.BATCH),
        accuracy,
        smoothquant_args=measuring.AUTO_ALPHA,
        accuracy_criterion={"relative": 0.005},
        example_inputs=images[: common.BATCH],
        progress=False,
    )
    result = tuned.tuning_result
    saved = folder / f"{train.__name__}_int8"
    tf_ext.save(tuned, saved)
    loaded = tf.saved_model.load(str(saved))  # whose functions do not keep it
    int8 = accuracy(loaded.serve)
    quantized = sum(operator.approach is not None for operator in result.operators)
    return [
        train.__name__,
        f"{result.baseline:.4f}",
        f"{int8:.4f}",
        f"{100 * (result.baseline - int8) / result.baseline:.2f}",
        result.met,
        result.evaluations,
        sum(result.phases.values()),
        f"{quantized} of {len(result.operators)}",
    ]


def outlier_rows(options: argparse.Namespace, compensated: bool) -> Iterator[list[Any]]:
    """Decibels of each way to smooth one model."""
    model = models.transformer(pooled=options.pooled)
    models.plant_outliers(model, options.factor, compensated=compensated)
    source = common.export(model, options.exports / "outliers")
    calibration, unseen = (common.normal_inputs(model, SAMPLES, seed) for seed in (1, 2))
    expected = model.predict(unseen, batch_size=common.BATCH, verbose=0)

    def decibels(**arguments: Any) -> tuple[str, str]:
        # The size as objective: by speed, the machine would have a say in what is quantized.
        tuned = tf_ext.autotune(
            source, calibration, sampling_sizes=[SAMPLES], objective="modelsize", progress=False, **arguments
        )
        int8 = tf_ext.convert(tuned)
        outputs = [int8(batch).numpy() for batch in common.batches(unseen)]
        chosen, _ = tuned.tuning_result.smoothing[0]
        return f"{signal_to_noise_db(expected, np.concatenate(outputs)):.2f}", chosen

    yield ["off", *decibels(recipes={"smooth_quant": False})]
    for alpha in ALPHAS:
        yield [f"alpha {alpha:g}", *decibels(smoothquant_args={"alpha": alpha})]
    yield ["auto", *decibels(smoothquant_args=measuring.AUTO_ALPHA)]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--factor", type=float, default=FACTOR, help="how much larger the outliers are")
    parser.add_argument("--pooled", action="store_true", help="compare logits of the mean over tokens")
    options = common.parse(parser)
    digits = models.Digits()
    rows = [score_row(train, digits, options.exports) for train in (models.trained_cnn, models.trained_transformer)]
    measuring.print_table("Accuracy on 500 digits", SCORE_COLUMNS, rows)
    for compensated in (True, False):
        text = "weights made smaller in turn" if compensated else "weights as they were"
        rows = list(outlier_rows(options, compensated))
        measuring.print_table(f"Outliers x{options.factor:g}, {text}", ("smoothing", "SQNR dB", "chosen"), rows)


if __name__ == "__main__":
    main()
