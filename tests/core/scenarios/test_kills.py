"""A run that is killed again and again goes on, and ends as one that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from collections import Counter

import numpy as np
import optuna
import pytest

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BAD = {f"dense{place}" for place in range(3, 24, 4)}
DATA = [np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)]
KILLS = 20


def run(folder):
    """Tune on a database in the folder; every evaluation that ends is written down."""

    def evaluate(model):
        time.sleep(0.002)
        quantized = sorted(layer.name for layer in model.layers if layer.transform.__name__ != "identity")
        with (folder / "evaluations").open("a") as log:
            log.write(json.dumps(quantized) + "\n")
        return 1.0 - 0.04 * len(BAD & set(quantized)) - 1e-5 * len(quantized)

    arguments = validate_arguments(
        strategies=STRATEGIES,
        backends=["default"],
        progress=False,
        storage=f"sqlite:///{folder}/run.db",
        tuning_time=1000.0,
        recipes={"smooth_quant": False},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tune(NumpyAdaptor(), random_model(24, 8), DATA, evaluate, arguments).result


def recorded(folder):
    """Assignments of trials that the database holds as ended."""
    storage = f"sqlite:///{folder}/run.db"
    names = [each for each in optuna.get_all_study_names(storage) if "shared work" not in each]
    trials = [trial for name in names for trial in optuna.load_study(study_name=name, storage=storage).trials]
    return [trial.system_attrs["inc_autotune:assignment"] for trial in trials if trial.state.name == "COMPLETE"]


def test_a_run_that_is_killed_twenty_times_ends_as_an_undisturbed_one(tmp_path):
    generator, killed = random.Random(0), 0
    log = tmp_path / "evaluations"
    log.touch()
    for _ in range(KILLS):
        size, child = log.stat().st_size, os.fork()
        if child == 0:
            try:
                run(tmp_path)
            finally:
                os._exit(0)
        # Each gets one evaluation further, so that the run is long enough for all of them.
        while log.stat().st_size == size:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    result = run(tmp_path)
    done = Counter((tmp_path / "evaluations").read_text().splitlines())
    # An evaluation whose process dies before it is recorded is the only one that may be repeated.
    assert sum(done.values()) - len(done) <= killed
    assert killed == KILLS
    (tmp_path / "whole").mkdir()
    expected = run(tmp_path / "whole")
    assert (result.score, result.fallbacks) == (expected.score, expected.fallbacks)
    assert len(recorded(tmp_path)) == len({json.dumps(each, sort_keys=True) for each in recorded(tmp_path)})
