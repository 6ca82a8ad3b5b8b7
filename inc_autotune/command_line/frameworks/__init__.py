"""What a command asks of a framework, one file each; imports no command and no data."""

from inc_autotune.command_line.frameworks.framework import Framework, ImageInput, Item, Run
from inc_autotune.command_line.frameworks.recognition import LoadedModel, load_model

__all__ = ["Framework", "ImageInput", "Item", "LoadedModel", "Run", "load_model"]
