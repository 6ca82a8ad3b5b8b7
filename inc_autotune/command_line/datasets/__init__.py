"""Data named on the command line as batches: arrays, folders of images, files of texts, Python objects.

Imports the interface of frameworks, for what a model wants of its inputs.
"""

from inc_autotune.command_line.datasets.batches import Batches, inputs_of, labelled
from inc_autotune.command_line.datasets.opening import DataOptions, check_options_used, open_data

__all__ = ["Batches", "DataOptions", "check_options_used", "inputs_of", "labelled", "open_data"]
