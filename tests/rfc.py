"""Settings that the RFC gives as examples."""

from __future__ import annotations

import numpy as np

GLOBAL_ALPHAS = {"alpha": np.arange(0.0, 1.0, 0.1).tolist()}
"""One alpha for all layers, tried one after the other."""

LAYER_WISE = {
    "alpha": "auto",
    "auto_alpha_args": {
        "init_alpha": 0.8,
        "alpha_min": 0.8,
        "alpha_max": 0.99,
        "alpha_step": 0.01,
        "shared_criterion": "mean",
        "enable_blockwise_loss": False,
    },
}

PROGRAM = {
    "alpha": "auto",
    "auto_alpha_args": {
        "init_alpha": 0.5,
        "alpha_min": 0.0,
        "alpha_max": 1.0,
        "alpha_step": 0.1,
        "shared_criterion": "max",
        "enable_blockwise_loss": False,
    },
}
"""Of its first program."""
