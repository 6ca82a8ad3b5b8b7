"""The harness of the package lm-eval: models as it scores them, and its tasks as evaluations. Above the evaluators."""

from inc_autotune.core.optional import require

require("lm_eval", extra="lm-eval")

from inc_autotune.torch_ext.harness.model import HarnessModel  # noqa: E402
from inc_autotune.torch_ext.harness.task import TaskScores  # noqa: E402

__all__ = ["HarnessModel", "TaskScores"]
