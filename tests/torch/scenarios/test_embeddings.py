"""Tables of embeddings in a few bits, on request or for the smallest model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from tests.torch.small_models import TiedWeights, dtypes, error, tune, vectors


class Recommender(nn.Module):
    """Bags of features and one identity; takes {"features", "offsets", "user"}."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.users = nn.EmbeddingBag(300, 17, mode="mean"), nn.Embedding(100, 16)
        self.weighted = nn.EmbeddingBag(300, 16, mode="sum", padding_idx=0)
        self.head = nn.Linear(49, 4)

    def forward(self, features: Tensor, user: Tensor) -> Tensor:
        offsets = torch.arange(0, features.numel(), features.shape[1])
        bags = self.features(features.flatten(), offsets=offsets)
        weighted = self.weighted(features, per_sample_weights=torch.ones_like(features, dtype=torch.float32))
        return self.head(torch.cat([bags, weighted, self.users(user)], 1))


@pytest.fixture(scope="module")
def data() -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    return [{"features": torch.randint(0, 300, (8, 6)), "user": torch.randint(0, 100, (8,))} for _ in range(4)]


TABLES = ("features", "users", "weighted")


@pytest.mark.parametrize("dtype", ["uint8", "uint4"])
def test_tables_are_quantized_on_request(dtype, data, tmp_path):
    model = Recommender().eval()
    assert {dtypes(tune(model, data))[name] for name in TABLES} == {"fp32"}
    tuned = tune(model, data, op_type_dict={"Embedding.*": {"weight": {"dtype": [dtype]}}})
    assert dtypes(tuned) == {**dict.fromkeys(TABLES, dtype), "head": "int8"}
    quantized = torch_ext.convert(tuned)
    torch_ext.save(quantized, tmp_path)
    loaded = torch_ext.load(tmp_path, Recommender())
    again = torch_ext.convert(torch_ext.apply_recipe(Recommender().eval(), tuned.tuning_result.recipe))
    with torch.no_grad():
        assert error(quantized(**data[0]), tuned(**data[0])) < 1e-9
        assert error(quantized(**data[0]), model(**data[0])) < (1e-3 if dtype == "uint8" else 2e-2)
        for other in (loaded, again):
            assert torch.equal(other(**data[0]), quantized(**data[0]))
        traced = torch.jit.trace(quantized, example_kwarg_inputs=data[0])
        assert torch.equal(traced(**data[1]), quantized(**data[1]))
    rows = quantized.features.integer_weight
    assert rows.nbytes == 300 * (17 + 8 if dtype == "uint8" else 9)


def test_tables_are_quantized_for_the_smallest_model(data):
    tuned = tune(Recommender().eval(), data, objective="modelsize")
    assert {dtypes(tuned)[name] for name in TABLES} == {"uint8"}
    assert tuned.tuning_result.size_ratio > 2.5


def test_the_reason_of_tables_in_fp32_says_how_to_ask(data):
    fallbacks = tune(Recommender().eval(), data).tuning_result.fallbacks
    assert {fallbacks[name] for name in TABLES} == {"on request only: objective='modelsize' or 'footprint', or a rule"}


def test_a_table_that_is_a_head_too_keeps_working():
    model, batches = TiedWeights().eval(), vectors(3)
    tuned = tune(model, batches, op_type_dict={"Embedding": {"weight": {"dtype": ["uint4"]}}})
    quantized = torch_ext.convert(tuned)
    with torch.no_grad():
        assert error(quantized(batches[0]), tuned(batches[0])) < 1e-9
