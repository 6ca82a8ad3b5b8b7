"""Ranges and smoothing scales on their way into a recipe and back."""

import torch

from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.result.recipe import OperatorRecipe
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.calibration.recipe_entries import calibration_entries, calibrations_from_recipe

INT8 = OpConfig(TensorConfig("int8", "sym", "per_channel", "minmax"), TensorConfig("uint8", "asym"), "static")
SCALE = torch.tensor([1.0, 2.5, 0.5])
CALIBRATIONS = {
    "query": OperatorCalibration(-1.5, 2.0, SCALE),
    "key": OperatorCalibration(-1.5, 2.0, SCALE.clone()),
    "conv": OperatorCalibration(0.0, 1.0, None, -3.0, 4.0),
    "dynamic": OperatorCalibration(),
}


def test_what_goes_in_comes_out():
    entries, arrays = calibration_entries(CALIBRATIONS)
    operators = {name: OperatorRecipe("Linear", INT8, "", entry) for name, entry in entries.items()}
    found = calibrations_from_recipe(operators, arrays)
    assert found.keys() == CALIBRATIONS.keys()
    for name, expected in CALIBRATIONS.items():
        limits = (expected.input_minimum, expected.input_maximum, expected.output_minimum, expected.output_maximum)
        calibration = found[name]
        assert limits == (
            calibration.input_minimum,
            calibration.input_maximum,
            calibration.output_minimum,
            calibration.output_maximum,
        )
        assert (calibration.smoothing is None) == (expected.smoothing is None)
        assert expected.smoothing is None or torch.equal(calibration.smoothing, expected.smoothing)


def test_a_scale_is_written_once_and_what_is_not_known_is_left_out():
    entries, arrays = calibration_entries(CALIBRATIONS)
    assert list(arrays) == ["query.smoothing"]
    assert entries["key"]["smoothing"] == "query.smoothing"
    assert entries["dynamic"] == {}
    assert "output_minimum" not in entries["query"]


def test_arrays_of_a_recipe_stay_as_they_are():
    entries, arrays = calibration_entries({"query": CALIBRATIONS["query"]})
    found = calibrations_from_recipe({"query": OperatorRecipe("Linear", INT8, "", entries["query"])}, arrays)
    found["query"].smoothing[:] = 0
    assert arrays["query.smoothing"].tolist() == SCALE.tolist()
