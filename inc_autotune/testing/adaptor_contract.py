"""The contract of every adaptor, as a test class to subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.output_error import SupportsComparison
from inc_autotune.core.errors import AutotuneError
from inc_autotune.core.op_config import FP32, OpConfig

USELESS_WITHOUT = {
    "reference_outputs": ("run",),
    "half_quantized": ("reference_outputs", "run"),
    "blocks": ("block_reference", "run_block"),
}
"""Methods that an adaptor must also have, by the optional method that is never called without them."""


class AdaptorContract(ABC):
    """Subclass it in a test file, implement the four factories, and pytest runs the contract on your adaptor.

    The model should have at least two quantizable operators, one of which reads activations with an outlier
    channel, and run in milliseconds.
    """

    @abstractmethod
    def make_adaptor(self) -> Adaptor:
        """A fresh adaptor."""

    @abstractmethod
    def make_model(self) -> Any:
        """A small fp32 model, equal at every call."""

    @abstractmethod
    def make_data(self) -> Any:
        """Calibration data with at least 8 samples, equal at every call."""

    @abstractmethod
    def outputs(self, model: Any) -> np.ndarray[Any, Any]:
        """The outputs of a deployable model on fixed inputs."""

    def _calibrated(self) -> tuple[Adaptor, Any, int]:
        adaptor, model = self.make_adaptor(), self.make_model()
        return adaptor, model, adaptor.calibrate(model, self.make_data(), (8,)) or 8

    def _tune_cfg(self, adaptor: Adaptor, model: Any, size: int, choice: int = 0) -> dict[str, Any]:
        """A configuration with the option of index `choice` for every operator."""
        opwise = adaptor.query_fw_capability(model)["opwise"]
        return {
            "op": {operator: options[choice] for operator, options in opwise.items()},
            "calib_iteration": size,
            "recipe_cfgs": {},
        }

    def _quantized(self, choice: int = 0) -> np.ndarray[Any, Any]:
        adaptor, model, size = self._calibrated()
        return self.outputs(adaptor.quantize(self._tune_cfg(adaptor, model, size, choice), model, self.make_data()))

    def test_capability_has_the_agreed_form(self) -> None:
        adaptor, model, _ = self._calibrated()
        capability = adaptor.query_fw_capability(model)
        assert set(capability) == {"opwise", "optypewise"}
        assert len(capability["opwise"]) >= 2
        for (name, op_type), options in capability["opwise"].items():
            assert isinstance(name, str)
            assert op_type in capability["optypewise"]
            parsed = [OpConfig.from_dict(option) for option in options]
            assert parsed[0].is_quantized, f"{name}: the first option is the default, a quantized one"
            assert parsed[-1] == FP32, f"{name}: the last option is fp32"
            assert len(set(parsed)) == len(parsed), f"{name}: an option stands twice"

    def test_capability_is_the_same_before_and_after_quantizing(self) -> None:
        adaptor, model, size = self._calibrated()
        before = adaptor.query_fw_capability(model)
        adaptor.quantize(self._tune_cfg(adaptor, model, size), model, self.make_data())
        assert adaptor.query_fw_capability(model) == before

    def test_all_fp32_is_the_model_itself(self) -> None:
        reference = self.outputs(self.make_model())
        np.testing.assert_allclose(self._quantized(choice=-1), reference, rtol=1e-4, atol=1e-5)

    def test_the_default_changes_the_outputs_a_little(self) -> None:
        reference, quantized = self.outputs(self.make_model()), self._quantized()
        assert np.isfinite(quantized).all()
        error = float(((quantized - reference) ** 2).sum() / (reference**2).sum())
        assert 0 < error < 0.1

    def test_an_operator_that_is_not_named_stays_fp32(self) -> None:
        adaptor, model, size = self._calibrated()
        empty = {"op": {}, "calib_iteration": size, "recipe_cfgs": {}}
        quantized = adaptor.quantize(empty, model, self.make_data())
        np.testing.assert_allclose(self.outputs(quantized), self.outputs(model), rtol=1e-4, atol=1e-5)

    def test_the_users_model_is_not_changed(self) -> None:
        adaptor, model, size = self._calibrated()
        before = self.outputs(self.make_model())
        adaptor.quantize(self._tune_cfg(adaptor, model, size), model, self.make_data())
        np.testing.assert_array_equal(self.outputs(model), before)

    def test_the_same_input_gives_the_same_result(self) -> None:
        np.testing.assert_array_equal(self._quantized(), self._quantized())

    def test_an_unknown_operator_is_an_error(self) -> None:
        adaptor, model, size = self._calibrated()
        tune_cfg = self._tune_cfg(adaptor, model, size)
        (_, op_type), config = next(iter(tune_cfg["op"].items()))
        tune_cfg["op"] = {("no such operator", op_type): config}
        message = _error_of(lambda: adaptor.quantize(tune_cfg, model, self.make_data()))
        assert "no such operator" in message

    def test_data_is_read_once(self) -> None:
        adaptor, model = self.make_adaptor(), self.make_model()
        size = adaptor.calibrate(model, iter(self.make_data()), (8,))
        if size:
            tune_cfg = self._tune_cfg(adaptor, model, size)
            for _ in range(2):
                adaptor.quantize(tune_cfg, model, None)

    def test_empty_data_is_an_error(self) -> None:
        adaptor, model = self.make_adaptor(), self.make_model()

        def use_nothing() -> None:
            if not adaptor.calibrate(model, [], (8,)):
                adaptor.quantize(self._tune_cfg(adaptor, model, 8), model, [])

        assert "empty" in _error_of(use_nothing)

    def test_groups_name_known_operators_once(self) -> None:
        adaptor, model, _ = self._calibrated()
        names = {name for name, _ in adaptor.query_fw_capability(model)["opwise"]}
        grouped = [name for members in adaptor.groups(model) for name in members if name in names]
        assert len(grouped) == len(set(grouped))

    def test_smoothing_keeps_the_function(self) -> None:
        adaptor, model, size = self._calibrated()
        tune_cfg = self._tune_cfg(adaptor, model, size)
        tune_cfg["op"] = {operator: {**config, "alpha": 0.5} for operator, config in tune_cfg["op"].items()}
        reference, smoothed = self.outputs(model), self.outputs(adaptor.quantize(tune_cfg, model, self.make_data()))
        assert float(((smoothed - reference) ** 2).sum() / (reference**2).sum()) < 0.1

    def test_optional_methods_that_need_each_other_come_together(self) -> None:
        adaptor = self.make_adaptor()
        for method, needed in USELESS_WITHOUT.items():
            missing = [name for name in needed if not hasattr(adaptor, name)]
            assert not hasattr(adaptor, method) or not missing, f"{method} is never called without {missing}"

    def test_reference_outputs_are_those_of_the_fp32_model(self) -> None:
        adaptor, model, size = self._calibrated()
        if not isinstance(adaptor, SupportsComparison):
            return
        reference = adaptor.reference_outputs()
        if reference is None:
            return
        candidate = adaptor.quantize(self._tune_cfg(adaptor, model, size, choice=-1), model, None)
        for expected, actual in zip(reference, adaptor.run(candidate), strict=True):
            np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-3, atol=1e-4)


def _error_of(action: Callable[[], object]) -> str:
    """The message of the `AutotuneError` that the action must raise."""
    try:
        action()
    except AutotuneError as error:
        return str(error)
    raise AssertionError("no AutotuneError was raised")
