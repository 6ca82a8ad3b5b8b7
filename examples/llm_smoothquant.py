"""What SmoothQuant is for: a language model with outlier channels in INT8, for several choices of alpha.

A byte-level GPT-2 learns Python from the source of the standard library. Then four channels of each LayerNorm are made
100 times larger, and the weights that read them 100 times smaller: the model computes the same, but its activations
now have the outliers that large language models are known for. Takes about 20 seconds.
"""

import inspect
import math
import statistics

import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from inc_autotune import torch_ext

torch.manual_seed(0)
text = inspect.getsource(statistics) + inspect.getsource(inspect)
characters = torch.tensor(bytearray(text, "ascii", "replace")).long()
windows = characters[: len(characters) // 65 * 65].view(-1, 65)
windows = windows[torch.randperm(len(windows))]
train, test = windows[128:], windows[:128]
shape = {"vocab_size": 128, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 2}
model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None))


def loss(candidate: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return cross_entropy(candidate(batch[:, :-1])["logits"].flatten(0, 1), batch[:, 1:].flatten())


optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
for batch in train.repeat(5, 1).split(32):
    optimizer.zero_grad()
    loss(model, batch).backward()
    optimizer.step()
model.eval()

with torch.no_grad():
    for block in model.transformer.h:
        for norm, reader in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
            norm.weight[::16] *= 100
            norm.bias[::16] *= 100
            reader.weight[::16] /= 100


@torch.no_grad()
def perplexity(candidate: torch.nn.Module) -> float:
    return math.exp(loss(candidate, test))


print(f"{'fp32':24} perplexity {perplexity(model):6.3f}")
for alpha in (None, 0.5, "auto"):
    smoothing = {"recipes": {"smooth_quant": False}} if alpha is None else {"smoothquant_args": {"alpha": alpha}}
    tuned = torch_ext.autotune(model, train[:, :-1].split(16), progress=False, **smoothing)
    print(f"{'int8, alpha ' + str(alpha):24} perplexity {perplexity(torch_ext.convert(tuned)):6.3f}")
print("\nOne alpha for each layer, found by 'auto':")
for name, alpha in tuned.tuning_result.alphas.items():
    print(f"{name:30} {alpha}")
