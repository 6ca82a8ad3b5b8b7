"""Checkpoints that are quantized block by block, since the whole model does not fit into memory.

Imports `hugging_face/`, persistence and everything below them.
"""

from inc_autotune.torch_ext.checkpoints.quantization import quantize_checkpoint

__all__ = ["quantize_checkpoint"]
