"""What was done to a model that was converted when it was read."""

from __future__ import annotations


def half_note(half_type: str) -> str:
    """What the user should know of a model that computed in half precision.

    Args:
        half_type: "float16" or "bfloat16".
    """
    return (
        f"the model computed in {half_type}, and computes in float32 now, which is what the scores of fp32 are of; its "
        "inputs and outputs keep their types"
    )
