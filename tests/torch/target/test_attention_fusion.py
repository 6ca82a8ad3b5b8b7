"""Compiled graphs: attention in bfloat16 reads masks as they were before they expanded."""

import pytest
import torch
from torch import nn

from inc_autotune.torch_ext.target import attention
from inc_autotune.torch_ext.target.attention import attention_problem, bf16_attention

pytestmark = pytest.mark.skipif(attention_problem() is not None, reason=f"no kernel here: {attention_problem()}")


class Layers(nn.Module):
    """Two calls that read one mask, which is computed and expanded before them."""

    def forward(self, x, kept):
        mask = (kept[:, None, None, :] & (torch.arange(20)[:, None] >= 0)).expand(x.shape[0], 1, 20, 20)
        for _ in range(2):
            x = bf16_attention(x, x, x, mask, False, 0.3)
        return x


def test_a_mask_is_computed_once(monkeypatch):
    monkeypatch.setattr(attention, "LEAST_PRODUCTS", 0)
    graphs, model = [], Layers()
    x = torch.randn(3, 20, 4, 8, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    kept = torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) > 0.3
    torch._dynamo.reset()
    config = {"force_disable_caches": True, "post_grad_custom_post_pass": graphs.append}
    with torch.no_grad(), torch._inductor.config.patch(config):
        output = torch.compile(model, fullgraph=True)(x, kept)
    assert torch.allclose(output, model(x, kept), atol=1e-6)
    calls = [node for node in graphs[0].nodes if node.target is torch.ops.inc_autotune.bf16_attention.default]
    assert len(calls) == 2
    assert len({node.args[3] for node in calls}) == 1
    assert calls[0].args[3].target is not torch.ops.aten.expand.default
