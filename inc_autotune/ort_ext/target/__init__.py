"""What graphs are written for: execution providers, their forms of a graph, this processor, and the user's switches.

Imports graph.
"""

from inc_autotune.ort_ext.target.forms import QDQ, GraphForm
from inc_autotune.ort_ext.target.providers import BACKENDS, CPU_BACKEND, CPU_PROVIDER, Backend, find_backend
from inc_autotune.ort_ext.target.saturation import KERNELS, Kernel, saturates
from inc_autotune.ort_ext.target.settings import CPU_SETTINGS, ModelSettings
from inc_autotune.ort_ext.target.switches import OPTIMIZATION_LEVELS, RECIPE_NAMES, GraphRecipes, read_recipes

__all__ = [
    "BACKENDS",
    "CPU_BACKEND",
    "CPU_PROVIDER",
    "CPU_SETTINGS",
    "KERNELS",
    "OPTIMIZATION_LEVELS",
    "QDQ",
    "RECIPE_NAMES",
    "Backend",
    "GraphForm",
    "GraphRecipes",
    "Kernel",
    "ModelSettings",
    "find_backend",
    "read_recipes",
    "saturates",
]
