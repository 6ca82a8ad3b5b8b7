"""What a data loader may be, how its items are read, and which samples are held out.

Imports arguments, for the words of error messages.
"""

from inc_autotune.core.data.batch_axis import NOT_A_BATCH, BatchAxis, is_batch
from inc_autotune.core.data.calibration import Calibration, CalibrationPass, merged_calibration
from inc_autotune.core.data.calibration_state import Packed, UnportableError, pack_calibration, unpack_calibration
from inc_autotune.core.data.held_out import HELD_OUT_BYTES, LEAST_BATCHES, HeldOut, cut
from inc_autotune.core.data.loaders import (
    check_loader,
    describe,
    is_array,
    is_number_list,
    is_one_shot,
    model_fails,
    no_item,
)
from inc_autotune.core.data.logits import scores_words, without_common_part
from inc_autotune.core.data.reading import LABEL_NAMES, Reading

__all__ = [
    "HELD_OUT_BYTES",
    "LABEL_NAMES",
    "LEAST_BATCHES",
    "NOT_A_BATCH",
    "BatchAxis",
    "Calibration",
    "CalibrationPass",
    "HeldOut",
    "Packed",
    "Reading",
    "UnportableError",
    "check_loader",
    "cut",
    "describe",
    "is_array",
    "is_batch",
    "is_number_list",
    "is_one_shot",
    "merged_calibration",
    "model_fails",
    "no_item",
    "pack_calibration",
    "scores_words",
    "unpack_calibration",
    "without_common_part",
]
