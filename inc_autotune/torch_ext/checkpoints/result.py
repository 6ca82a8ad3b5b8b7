"""What a quantized checkpoint came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from inc_autotune.core.text_table import text_table


@dataclass(frozen=True)
class PartOutcome:
    """What became of one part of the model.

    Args:
        name: of a block, or "embeddings", what stands before the first block, or "head", what stands behind the last.
        dtypes: how many operators have which integers, by dtype.
        how: how it was smoothed and rounded.
        error: relative squared error at its output, on held-out samples and inputs that the quantized parts before it
            give; None: nothing was compared.
        seconds: that it took.
        bytes: that it has on disk.
    """

    name: str
    dtypes: dict[str, int]
    how: str
    error: float | None
    seconds: float
    bytes: int


@dataclass(frozen=True)
class CheckpointResult:
    """What `quantize_checkpoint` wrote; its text is a table.

    Args:
        folder: that `from_pretrained` and `load` read.
        parts: in the order of the model.
        samples: sequences that were calibrated on.
        tokens: in all of them.
        resumed_at: how many parts an earlier call had finished.
        original_bytes: of the checkpoint's tensors.
        notes: for the user.
    """

    folder: Path
    parts: tuple[PartOutcome, ...]
    samples: int
    tokens: int
    resumed_at: int
    original_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all tensors on disk."""
        return sum(part.bytes for part in self.parts)

    @property
    def seconds(self) -> float:
        """That all parts took, those of earlier calls too."""
        return sum(part.seconds for part in self.parts)

    def __str__(self) -> str:
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts.update(part.dtypes)
        integers = ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items())) or "none"
        lines = [
            "Quantized block by block, without evaluation: no claim about accuracy",
            f"folder: {self.folder}",
            f"operators in integers: {integers}",
            f"weights: {self.bytes / 1e6:.1f} MB of {self.original_bytes / 1e6:.1f} MB",
            f"calibration: {self.samples} sequences, {self.tokens} tokens; {self.seconds:.0f} s"
            + (f", resumed behind {self.resumed_at} parts" if self.resumed_at else ""),
            "",
        ]
        rows = [
            ("part", "operators", "error", "seconds", "how"),
            *(
                (
                    part.name,
                    ", ".join(f"{count} {dtype}" for dtype, count in sorted(part.dtypes.items())) or "as given",
                    "" if part.error is None else f"{part.error:.2e}",
                    f"{part.seconds:.1f}",
                    part.how,
                )
                for part in self.parts
            ),
        ]
        lines += text_table(rows)
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)
