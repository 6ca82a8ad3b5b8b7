"""Keep what tuning found: save and load a model, reuse its recipe without data, deploy a traced file."""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

from inc_autotune import torch_ext


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)).eval()


torch.manual_seed(0)
digits = load_digits()
inputs, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
model = make_model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(10):
    for batch in torch.randperm(1300).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()

tuned = torch_ext.autotune(
    model,
    inputs[:1300].split(50),
    eval_dataloader=[(inputs[1300:], labels[1300:])],
    eval_metric="accuracy",
    progress=False,
)
quantized = torch_ext.convert(tuned)
expected = quantized(inputs[:8])
folder = Path(tempfile.mkdtemp())

# Weights as safetensors and the recipe as YAML. Nothing is unpickled, so the architecture comes from code.
torch_ext.save(quantized, folder / "digits")
loaded = torch_ext.load(folder / "digits", make_model())
print("loaded model, outputs identical:", torch.equal(loaded(inputs[:8]), expected))

# The recipe alone holds every decision and calibrated range; with the fp32 weights it makes the same model again.
tuned.tuning_result.recipe.save(folder / "recipe.yaml")
again = torch_ext.convert(torch_ext.apply_recipe(model, folder / "recipe.yaml"))
print("recipe applied, outputs identical:", torch.equal(again(inputs[:8]), expected))

# A traced file runs wherever torch does, without inc_autotune.
torch.jit.freeze(torch.jit.trace(quantized, inputs[:8])).save(folder / "digits.pt")
print("traced file, outputs identical:", torch.equal(torch.jit.load(folder / "digits.pt")(inputs[:8]), expected))

print("\nThe first lines of the recipe:")
print("\n".join((folder / "recipe.yaml").read_text().splitlines()[:28]))
