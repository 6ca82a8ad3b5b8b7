"""Whether verdicts about speed are the same in every run on a busy machine.

Units of shapes around the line where int8 stops paying are judged again and again while other processes compute, on one
thread and on all. Every set of units that a run keeps in fp32 is printed with the number of runs that gave it: one line
is one answer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter

import torch
from torch import nn

from inc_autotune.core.analysis.unit_speed import measured_speeds, slow_units
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.search.options import allowed_options, offered_options
from inc_autotune.core.space.units import build_space
from inc_autotune.torch_ext.adaptor import TorchAdaptor

BURN = "import numpy as np\na = np.ones((700, 700), np.float32)\nwhile True: a @ a"


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


def verdicts(runs: int) -> Counter[tuple[str, ...]]:
    """Sets of slow operators, by the number of runs that found them."""
    model = Shapes().eval()
    data = [(torch.randn(8, 96, 512), torch.randn(8, 8, 48, 48)) for _ in range(4)]
    adaptor = TorchAdaptor()
    adaptor.calibrate(model, [((x, image), 0) for x, image in data], (32,))
    arguments = validate_arguments(strategies=["auto"], backends=["default"])
    units = build_space(allowed_options(offered_options(adaptor, model), arguments), adaptor.groups(model)).units
    found: Counter[tuple[str, ...]] = Counter()
    for _ in range(runs):
        speeds = measured_speeds(adaptor, units)
        print({name: round(speed.speedup, 2) for name, speed in speeds.items()}, file=sys.stderr)
        found[tuple(slow_units(units, speeds))] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--load", type=int, default=2, help="processes that compute meanwhile")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, torch.get_num_threads()])
    given = parser.parse_args()
    print("| threads | runs | kept in fp32 |\n|---|---|---|")
    burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(given.load)]
    try:
        for threads in dict.fromkeys(given.threads):
            torch.set_num_threads(threads)
            for slow, count in verdicts(given.runs).most_common():
                print(f"| {threads} | {count} of {given.runs} | {', '.join(slow) or 'none'} |")
    finally:
        for each in burning:
            each.kill()


if __name__ == "__main__":
    main()
