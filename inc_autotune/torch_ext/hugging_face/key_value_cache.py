"""A cache of keys and values in int8, for long texts."""

from __future__ import annotations

from typing import Any

from inc_autotune.core.errors import MissingDependencyError
from inc_autotune.core.optional import require


def int8_cache() -> Any:
    """An empty cache for `generate(past_key_values=...)` of the transformers library, in a quarter of the memory.

    Each key and value of each head is rounded to int8 with a scale of its own, and multiplied out for the step that
    reads it. Beams, batches, cropping and models of any form, quantized or not, work as with the library's own
    `DynamicCache`, whose place it takes; layers with a sliding window keep all tokens. It is for one text: make a new
    one for the next. Of an encoder-decoder the decoder's own: `EncoderDecoderCache(int8_cache(), DynamicCache())`.

    Returns:
        A `transformers.Cache`.

    Raises:
        MissingDependencyError: transformers is not installed, or older than 4.56.
    """
    require("transformers", extra="huggingface")
    try:
        from transformers.cache_utils import Cache

        from inc_autotune.torch_ext.hugging_face.integer_layer import Int8Layer

        return Cache(layer_class_to_replicate=Int8Layer)
    except (ImportError, TypeError) as error:
        raise MissingDependencyError(
            f"int8_cache needs transformers 4.56 or newer: {error}. Run: pip install -U transformers"
        ) from error
