"""Proposal 3 of the RFC, its final choice, unchanged but for the import: tune, convert, trace and freeze."""

from types import SimpleNamespace

import torch
from sklearn.datasets import load_digits
from torch import nn

from inc_autotune import torch_ext

ipex = SimpleNamespace(quantization=torch_ext)  # in place of: import intel_extension_for_pytorch as ipex

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
layers = [nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 256), nn.GELU(), nn.LayerNorm(256)]
model = nn.Sequential(*layers, nn.Linear(256, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(40):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[:1300]), labels[:1300]).backward()
    optimizer.step()
model.eval()
calib_dataloader = images[:200].split(20)


def eval_func(model):
    with torch.no_grad():
        return float((model(images[1300:]).argmax(1) == labels[1300:]).float().mean())


# Set the tune space of SmoothQuant
smoothquant_args = {
    "alpha": "auto",
    "auto_alpha_args": {
        "init_alpha": 0.5,
        "alpha_min": 0.0,
        "alpha_max": 1.0,
        "alpha_step": 0.1,
        "shared_criterion": "max",
        "enable_blockwise_loss": False,
    },
}
tuned_model = ipex.quantization.autotune(
    model, calib_dataloader, eval_func, smoothquant_args=smoothquant_args,
    sampling_sizes=[100], accuracy_criterion={"relative": 0.01}, tuning_time=0,
)  # fmt: skip
# Convert the model to jit model
quantized_model = ipex.quantization.convert(tuned_model)
example_input, x = images[:32], images[32:64]
with torch.no_grad():
    traced_model = torch.jit.trace(quantized_model, example_input)
    traced_model = torch.jit.freeze(traced_model)
# Do inference
y = traced_model(x)

print(f"accuracy: fp32 {eval_func(model):.4f}, int8 traced {eval_func(traced_model):.4f}")
