"""Folders as the libraries of Hugging Face lay them out, for transformers models and sentence encoders, and caches.

Imports persistence and everything below it.
"""

from inc_autotune.torch_ext.hugging_face.compressed_tensors import save_compressed_tensors
from inc_autotune.torch_ext.hugging_face.key_value_cache import int8_cache
from inc_autotune.torch_ext.hugging_face.pretrained import from_pretrained, save_pretrained

__all__ = ["from_pretrained", "int8_cache", "save_compressed_tensors", "save_pretrained"]
