from dataclasses import dataclass

import pytest
import torch
from torch import nn

from inc_autotune.core.analysis import relative_error
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.data.batch import Batch
from inc_autotune.torch_ext.data.padding import real_outputs, real_positions


class Encoder(nn.Module):
    def forward(self, ids, attention_mask=None, src_key_padding_mask=None, **options):
        return {"hidden": ids.unsqueeze(-1).float(), "pooled": ids[:, :1].float()}


IDS = torch.tensor([[1, 2, 3], [4, 5, 0]])
REAL = torch.tensor([[True, True, True], [True, True, False]])


def positions(*args, **kwargs):
    return real_positions(Encoder(), Batch.of(args, kwargs))


def test_attention_mask_marks_real_tokens():
    assert torch.equal(positions(IDS, attention_mask=REAL.long()), REAL)
    assert torch.equal(positions(IDS, REAL), REAL)


def test_key_padding_mask_marks_padding():
    assert torch.equal(positions(IDS, src_key_padding_mask=~REAL), REAL)


def test_other_masks_and_no_mask_say_nothing():
    assert positions(IDS) is None
    assert positions(IDS, attention_mask=torch.full((2, 3), -1e9)) is None
    assert positions(IDS, attention_mask=torch.ones(2, 1, 3, 3)) is None
    assert positions(IDS, src_key_padding_mask=torch.zeros(2, 3)) is None


def test_outputs_at_padding_are_left_out_and_others_kept():
    hidden, pooled = real_outputs(Encoder()(IDS), REAL)
    assert hidden.flatten().tolist() == [1, 2, 3, 4, 5]
    assert pooled.flatten().tolist() == [1, 4]


def test_a_mask_without_any_real_token_is_ignored():
    hidden, _ = real_outputs(Encoder()(IDS), torch.zeros_like(REAL))
    assert hidden.shape == (2, 3, 1)


@dataclass
class MaskedLMOutput:
    """Named as those of transformers are."""

    logits: torch.Tensor
    hidden: torch.Tensor


@dataclass
class SequenceClassifierOutput:
    logits: torch.Tensor


def test_what_all_words_have_in_common_is_no_error_of_a_language_model():
    logits, hidden = torch.randn(2, 3, 7), torch.randn(2, 3, 4)
    one, kept = real_outputs(MaskedLMOutput(logits, hidden), REAL)
    other, _ = real_outputs(MaskedLMOutput(logits + torch.randn(2, 3, 1), hidden), REAL)
    assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(one.softmax(-1), logits[REAL].softmax(-1), atol=1e-6)
    assert torch.equal(kept, hidden[REAL])
    assert not torch.allclose(one, real_outputs(MaskedLMOutput(logits * 1.1, hidden), REAL)[0], atol=1e-2)


def test_scores_that_others_may_read_otherwise_stay_as_they_are():
    logits = torch.randn(2, 7)
    assert torch.equal(real_outputs(SequenceClassifierOutput(logits), None)[0], logits)
    assert torch.equal(real_outputs({"logits": logits}, None)[0], logits)


def test_a_language_model_of_transformers_and_its_candidates_are_compared_alike():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, intermediate_size=32)).eval()
    adaptor = TorchAdaptor()
    batches = [{"input_ids": torch.arange(8).reshape(1, 8) + first, "use_cache": False} for first in range(20)]
    adaptor.calibrate(model, batches, [20])
    reference = adaptor.reference_outputs()
    assert max(float(each.mean(-1).abs().max()) for each in reference) < 1e-6
    assert relative_error(reference, adaptor.run(model)) < 1e-10
