"""Errors about loaders that every extension raises."""

import pytest

from inc_autotune.core.data.loaders import model_fails, no_item, no_sample


@pytest.mark.parametrize("error", [no_sample("calib_dataset"), no_item("calib_dataset")])
def test_an_empty_loader_is_named(error):
    assert str(error).startswith("calib_dataset is empty: it yielded no ")
    assert "Give at least one batch" in str(error)


@pytest.mark.parametrize(
    ("samples", "remedy"),
    [(8, "the feature shapes of the first one."), (0, "the feature shapes that the model takes.")],
)
def test_a_failing_batch_is_described_and_compared_with_one_that_did_not_fail(samples, remedy):
    message = str(model_fails("calib_func", "(Tensor float32 [4, 3])", samples, TypeError("no such shape")))
    assert f"the batch (Tensor float32 [4, 3]), which comes after {samples} samples: TypeError: no such sh" in message
    assert message.endswith(remedy)
