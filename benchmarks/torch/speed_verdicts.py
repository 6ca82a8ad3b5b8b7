"""Whether verdicts about speed are the same in every run on a busy machine.

    python benchmarks/torch/speed_verdicts.py [--threads 1 2]

A model of shapes around the line where int8 stops paying is tuned again and again while other processes compute. Every
set of operators that a run keeps in fp32 is printed with the number of runs that gave it: one line is one answer.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import answers
from inc_autotune import torch_ext
from inc_autotune.core.result import TuningResult


class Shapes(nn.Module):
    """Wide, narrow and pointwise operators, from ten times as fast in int8 to slower."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Linear(512, 512)
        self.narrow = nn.Linear(512, 24)
        self.out = nn.Linear(24, 512)
        self.features = nn.Conv2d(8, 32, 3, padding=1)
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.out(torch.relu(self.narrow(torch.relu(self.wide(x))))), self.head(torch.relu(self.features(image)))


def main() -> None:
    given = answers.parser(__doc__).parse_args()
    model = Shapes().eval()
    data = [(torch.randn(8, 96, 512), torch.randn(8, 8, 48, 48)) for _ in range(4)]

    def tune() -> TuningResult:
        return torch_ext.autotune(model, [((x, image), 0) for x, image in data], progress=False).tuning_result

    warnings.simplefilter("ignore")
    answers.print_header()
    with answers.busy(given.load):
        for threads in given.threads:
            torch.set_num_threads(threads)
            answers.print_answers(threads, given.runs, tune)


if __name__ == "__main__":
    main()
