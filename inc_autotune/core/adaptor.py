"""The one interface a framework implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

from inc_autotune.core.errors import ArgumentError, did_you_mean
from inc_autotune.core.op_config import OpConfig

ENTRY_POINT_GROUP = "inc_autotune.adaptors"

Half = Literal["weight", "activation"]
"""What a quantized operator rounds."""


@dataclass(frozen=True)
class UnitSpeed:
    """How fast a unit's integer form is.

    Args:
        speedup: fp32 seconds over seconds of the default configuration, of the unit's operators alone.
        measured: what was measured, for people: `Linear 1024x768 on 8x128x768`.
        is_short: whether this is the speed of all operators together that are too short to be judged alone.
        is_chained: whether the unit takes integers from others and passes integers on, so that in fp32 it costs its
            neighbours time: it is never judged alone, only with the whole model.
        runs: whether the unit runs on the inputs that are timed; if not, its speed is not known and stands as 1.
    """

    speedup: float
    measured: str
    is_short: bool = False
    is_chained: bool = False
    runs: bool = True


class Adaptor(ABC):
    """What the tuner needs of a framework.

    Two methods are enough: `query_fw_capability` and `quantize`. The others of this class describe the model and have
    defaults. What an algorithm asks of a framework stands beside that algorithm in `core.analysis`, as a protocol:
    `SupportsSmoothing`, `SupportsComparison`, `SupportsTiming` and so on. An adaptor that has the methods of one is
    asked for them; it need not inherit from it, but a type checker then compares the signatures.

    One adaptor object serves one tuning run and may keep what it learned about the model. It never changes the
    user's model. `inc_autotune.testing.AdaptorContract` is a test suite for implementations.
    """

    framework: str = "unknown"
    """Names the row of the scheme table in `core.quantization` and stands in recipes."""

    timed: str = "forward pass"
    """What `measure` times, in a few words."""

    untrainable: str = "models of this framework cannot be trained here. Leave it out."
    """Why an adaptor without `SupportsTraining` does not train, and what to do instead, for messages."""

    @abstractmethod
    def query_fw_capability(self, model: Any) -> dict[str, Any]:
        """What each operator of the model may become.

        Returns:
            `{'opwise': {(op_name, op_type): [config, ...]}, 'optypewise': {op_type: config}}`. A config is
            `{'weight': {...}, 'activation': {...}}` with dtype, scheme, granularity, algorithm and, for the
            activation, quant_mode; the first is the default, the last is fp32.
        """

    @abstractmethod
    def quantize(
        self,
        tune_cfg: Mapping[str, Any],
        model: Any,
        dataloader: Any,
        q_func: Callable[[Any], Any] | None = None,
    ) -> Any:
        """The deployable quantized model for one configuration; the given model stays as it is.

        Args:
            tune_cfg: `{'op': {(name, type): config}, 'calib_iteration': samples, 'recipe_cfgs': {...}}`; an
                operator that is not named stays in fp32. With `'without_held_out': True` the candidate will only be
                compared on the held-out samples, and these should not have been calibrated on.
            model: the fp32 model.
            dataloader: calibration data; not read again where `calibrate` was called.
            q_func: trains the fake-quantized model it is given, for quantization-aware training.
        """

    def calibrate(self, model: Any, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        """Collect statistics in one pass over the data, with a snapshot at each sampling size.

        Returns:
            The number of samples read; 0 where this adaptor calibrates inside `quantize`.
        """
        return 0

    def known_types(self, model: Any) -> Collection[str]:
        """Operator types that a rule may name beside those of the capability: the framework's and this model's."""
        return ()

    def groups(self, model: Any) -> Sequence[Sequence[str]]:
        """Names of operators that must be decided together; the others stand alone."""
        return ()

    def skipped(self, model: Any) -> Mapping[str, str]:
        """Operators that cannot be quantized, each with the reason."""
        return {}

    def fp32_reason(self, model: Any, name: str, config: OpConfig) -> str | None:
        """Why an operator should stay in fp32 although it could have this configuration; None where it is worth it."""
        return None

    def operator_type(self, model: Any, name: str) -> str:
        """The type of an operator named by `skipped`."""
        return "unknown"

    def is_simulated(self, name: str, config: OpConfig) -> bool:
        """Whether an operator would be computed in fp32 with integer values, because no kernel exists."""
        return False

    def fingerprint(self, model: Any) -> str | None:
        """A content hash of structure and weights, the key under which trials can be resumed."""
        return None

    def notes(self) -> Sequence[str]:
        """Remarks that belong in the result, such as a missing instruction set."""
        return ()

    def tuned_model(self, tune_cfg: Mapping[str, Any], model: Any, candidate: Any) -> Any:
        """The form of the best candidate that is handed to the user; by default the candidate."""
        return candidate

    def to_recipe(self, tune_cfg: Mapping[str, Any], model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is needed beside the configurations to build the model again without data.

        Returns:
            Calibration values by operator name (plain numbers and names of arrays), and those arrays.
        """
        return {}, {}

    def recipe_settings(self, tune_cfg: Mapping[str, Any]) -> dict[str, Any]:
        """What was decided for the model as a whole and is needed to build it again, in plain values."""
        return {}


def registered_adaptor(name: str) -> type[Adaptor]:
    """The adaptor class a third party registered under the entry point group `inc_autotune.adaptors`.

    Raises:
        ArgumentError: nothing is registered under that name.
    """
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise ArgumentError(
            f"adaptor={name!r}: no such adaptor. Registered: {sorted(found) or 'none'} "
            f"(entry point group {ENTRY_POINT_GROUP!r}).{did_you_mean(name, found)}"
        )
    loaded = found[name].load()
    if not (isinstance(loaded, type) and issubclass(loaded, Adaptor)):
        raise ArgumentError(f"adaptor={name!r}: {found[name].value} is not a subclass of Adaptor.")
    return loaded
