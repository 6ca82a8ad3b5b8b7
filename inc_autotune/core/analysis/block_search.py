"""One alpha for each block of the model, scored at the block's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.output_error import candidate_errors, infinity, relative_error
from inc_autotune.core.errors import QuantizationError
from inc_autotune.core.space import TuningSpace


@runtime_checkable
class SupportsBlocks(Protocol):
    """An adaptor that finds the blocks of a model and runs one by itself."""

    def blocks(self) -> Mapping[str, Sequence[str]]:
        """Names of the operators in each block that repeats, such as the layers of a transformer."""

    def block_reference(self, block: str) -> Sequence[Any]:
        """The fp32 block's outputs on held-out samples."""

    def run_block(self, block: str, candidate: Any) -> Sequence[Any]:
        """The block's outputs in a candidate, on the inputs that the fp32 block saw."""


def search_blocks(
    adaptor: Adaptor,
    model: Any,
    space: TuningSpace,
    names: Sequence[str],
    alphas: Sequence[float],
    sampling_size: int,
    *,
    init_alpha: float,
    expired: Callable[[], bool] = lambda: False,
) -> dict[str, float | None]:
    """Choose one alpha for all smoothable units of each block.

    For every block, the block is run with its units quantized, once per alpha and once without smoothing, on the fp32
    inputs of the calibration. Its output is compared with the fp32 output of the block, so that the error of the
    attention or of the residual sum decides, not the errors of single operators.

    Args:
        names: of the units that may be smoothed.
        alphas: candidates.
        sampling_size: selects the statistics.
        init_alpha: among equally good alphas the one nearest to this wins.
        expired: once true, the remaining blocks are left out.

    Returns:
        Alpha by unit name, None for no smoothing; units outside of all blocks are left out.
    """
    if not isinstance(adaptor, SupportsBlocks):
        return {}
    chosen: dict[str, float | None] = {}
    for block, members in _units_of_blocks(adaptor.blocks(), space, names).items():
        if expired():
            break
        reference = adaptor.block_reference(block)
        candidates: list[float | None] = [None, *sorted(alphas, key=lambda alpha: abs(alpha - init_alpha))]
        errors: dict[float | None, float] = {}
        for alpha in candidates:
            assignment = space.only(space.default(sampling_size, dict.fromkeys(members, alpha)), members)
            tune_cfg = {**space.tune_cfg(assignment), "without_held_out": True}
            try:
                with candidate_errors():
                    quantized = adaptor.quantize(tune_cfg, model, None)
                    errors[alpha] = relative_error(reference, adaptor.run_block(block, quantized))
            except QuantizationError as error:
                errors[alpha] = infinity(error)
        chosen |= dict.fromkeys(members, min(candidates, key=lambda alpha: errors[alpha]))
    return chosen


def _units_of_blocks(
    blocks: Mapping[str, Sequence[str]], space: TuningSpace, names: Sequence[str]
) -> dict[str, list[str]]:
    """The smoothable units of each block; a unit with operators in two blocks belongs to none."""
    found: dict[str, list[str]] = {}
    for block, operators in blocks.items():
        inside = set(operators)
        members = [name for name in names if inside.issuperset(space.by_name[name].operator_names)]
        if members:
            found[block] = members
    return found
