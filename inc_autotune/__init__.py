"""Accuracy-aware post-training quantization for PyTorch, ONNX Runtime and TensorFlow.

Importing this package loads no framework; import the extension of yours:
`from inc_autotune import torch_ext`.
"""

from inc_autotune.core.errors import AutotuneError

__version__ = "0.1.0"
__all__ = ["AutotuneError", "__version__"]
