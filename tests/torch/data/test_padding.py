import torch
from torch import nn

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
