"""What a type checker knows of a tuned module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from inc_autotune.core.result import TuningResult

if TYPE_CHECKING:

    class TunedModule(nn.Module):
        """A module, of the class that it had, with what `autotune` found.

        Attributes:
            tuning_result: how it came about.
        """

        tuning_result: TuningResult
else:
    TunedModule = nn.Module
