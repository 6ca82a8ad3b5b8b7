"""What one pass keeps of a model's activations, from data and from a function."""

import pytest
import torch
from torch import nn

from inc_autotune.core.quantization.split_statistics import SAMPLED_ROWS
from inc_autotune.torch_ext.calibration.by_function import calibrate_by_function
from inc_autotune.torch_ext.calibration.collect import Collector, calibrate, input_of, output_of
from inc_autotune.torch_ext.data.batch import Batch
from inc_autotune.torch_ext.data.batches import batch_axis
from inc_autotune.torch_ext.operators.trace import trace_model
from tests.torch.small_models import FEATURES, CalledTwice, Text, image_batches, outlier_mlp, small_cnn, vectors


def collector(model, first, sizes, **options):
    trace = trace_model(model, first.args, first.kwargs)
    return Collector(model, trace, sizes, **{"seed": 0, "histogram": False, **options})


def calibrated(model, data, sizes=(100,), **options):
    batches = [Batch.of((inputs,)) for inputs in data]
    return calibrate(model, collector(model, batches[0], sizes, **options), batches)


def test_inputs_of_groups_and_outputs_of_convolutions_are_known():
    model = small_cnn()
    known = calibrated(model, image_batches()).snapshot().every
    assert output_of("stem") in known
    assert input_of("head") in known
    assert output_of("head") not in known
    assert all(each.count for each in known.values())


def test_operators_that_read_one_tensor_have_one_entry():
    known = calibrated(outlier_mlp(), vectors()).snapshot().every
    assert input_of("query") in known
    assert input_of("key") not in known


def test_indices_have_no_range():
    model = Text().eval()
    data = [torch.zeros(2, 5, dtype=torch.long)] * 2
    assert not any(name.startswith("table") for name in calibrated(model, data).snapshot().every)


def test_all_calls_of_an_operator_are_seen():
    model, data = CalledTwice().eval(), vectors(2)
    inputs = []
    model.shared.register_forward_pre_hook(lambda module, args: inputs.append(args[0].abs().max()))
    bare = CalledTwice().eval()
    found = calibrated(bare, data).snapshot().every
    with torch.no_grad():
        for batch in data:
            model(batch)
    largest = max(float(statistics.channel_absmax.max()) for statistics in found.values())
    assert largest == pytest.approx(float(max(inputs)), rel=1e-5)


def test_each_fold_keeps_rows_of_its_own():
    model = nn.Sequential(nn.Linear(FEATURES, 4)).eval()
    snapshot = calibrated(model, vectors(9, size=100), sizes=(900,)).snapshot()
    one, other = snapshot.crossed(input_of("0"))
    assert len(one.sampled_rows) == len(other.sampled_rows) == SAMPLED_ROWS
    shared = {tuple(row) for row in one.sampled_rows.tolist()} & {tuple(row) for row in other.sampled_rows.tolist()}
    assert not shared


def test_hooks_are_removed_whatever_happens():
    class BrokenError(Exception):
        pass

    def calib_func(model):
        model(vectors(1)[0])
        raise BrokenError

    model = outlier_mlp()
    with pytest.raises(BrokenError):
        calibrate_by_function(
            model, calib_func, lambda first: collector(outlier_mlp(), first, (100,)), batch_axis(outlier_mlp())
        )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("sizes", [(100,), (24, 48)])
def test_a_function_gives_what_the_same_batches_give(sizes):
    data = vectors(8)
    model = outlier_mlp()
    expected = calibrated(model, data, sizes)
    found = calibrate_by_function(
        model,
        lambda watched: [watched(batch) for batch in data],
        lambda first: collector(outlier_mlp(), first, sizes),
        batch_axis(outlier_mlp()),
    )
    assert found.digest == expected.digest
    for size in (*sizes, 64):
        one, other = found.snapshot(size).fitted, expected.snapshot(size).fitted
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name].channel_maximum, other[name].channel_maximum) for name in one)
    for one, other in zip(found.held_out.outputs, expected.held_out.outputs, strict=True):
        assert torch.equal(one, other)
