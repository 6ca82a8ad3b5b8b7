"""What a viewer of Optuna's studies, such as optuna-dashboard, has to show of a trial."""

from __future__ import annotations

import optuna

from inc_autotune.testing import Scores, random_model
from tests.core.tuner.test_tuning import run


def test_trials_say_in_short_lines_what_they_tried_and_came_to(tmp_path):
    storage = f"sqlite:///{tmp_path}/run.db"
    result = run(Scores(1.0, 0.5, float("nan"), 1.0), model=random_model(8), storage=storage, study_name="mine").result
    (name,) = (each for each in optuna.get_all_study_names(storage) if each.startswith("mine") and " " not in each)
    study = optuna.load_study(study_name=name, storage=storage)
    assert study.metric_names == ["score"]
    for frozen, trial in zip(study.trials, result.trials, strict=True):
        shown = frozen.user_attrs
        assert shown["tried"] == trial.label
        assert max(len(f"{key} {value}") for key, value in shown.items()) < 100
        fp32 = sum(config.dtype == "fp32" for config in trial.assignment.by_unit.values())
        assert frozen.params == {"units in fp32": fp32}
        assert shown["units"].split(", ")[0] == f"{8 - fp32} int8 static"
    assert [frozen.user_attrs["came to"].split(",")[0] for frozen in study.trials] == [
        "not met",
        "the score is nan",
        "met",
    ]
