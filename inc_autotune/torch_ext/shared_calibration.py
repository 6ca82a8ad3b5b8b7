"""The part of the adaptor for PyTorch that hands what calibration found to other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from inc_autotune.core.analysis import SupportsSharedCalibration
from inc_autotune.core.arrays import Array
from inc_autotune.core.data import UnportableError, merged_calibration
from inc_autotune.torch_ext.calibrated_adaptor import CalibratedAdaptor
from inc_autotune.torch_ext.calibration import merged_observations, pack_calibration, unpack_calibration
from inc_autotune.torch_ext.model import base_model


class SharedCalibration(CalibratedAdaptor, SupportsSharedCalibration):
    """Calibration that travels. The model itself does not: each process examines its own, by the same inputs."""

    def calibration_state(self) -> tuple[Mapping[str, Array], Mapping[str, Any]] | None:
        """See `SupportsSharedCalibration`."""
        if self._observed is None or not self._observed.firsts:
            return None
        try:
            return pack_calibration(self.calibration, self._observed)
        except UnportableError:
            return None

    def take_calibration(
        self, model: nn.Module, states: Sequence[tuple[Mapping[str, Array], Mapping[str, Any]]]
    ) -> int:
        """See `SupportsSharedCalibration`."""
        parts = [unpack_calibration(arrays, values, model) for arrays, values in states]
        self._calibration = merged_calibration([calibration for calibration, _ in parts])
        self._observed = merged_observations([observed for _, observed in parts])
        if len(parts) == 1:  # a second pass has been made already, where there had to be one
            self._again = None
        self._begin(base_model(model, {}))
        for first in self._observed.firsts:
            self._examine(model, first)
        self._take_in(model)
        return self._calibration.samples
