"""The two settings of smoothquant_args that the RFC calls commonly used: one alpha for all, one alpha a layer."""

import numpy
import torch
from sklearn.datasets import load_digits
from torch import nn

from inc_autotune import torch_ext

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
with torch.no_grad():  # the outliers that large models have: the same function, a few channels 30 times as large
    for norm, reader in ((model[2], model[3]), (model[5], model[6])):
        norm.weight[:8], norm.bias[:8] = 30 * norm.weight[:8], 30 * norm.bias[:8]
        reader.weight[:, :8] /= 30
calib_dataloader = images[:200].split(20)


def eval_func(model):
    with torch.no_grad():
        return float((model(images[1300:]).argmax(1) == labels[1300:]).float().mean())


settings = {
    "auto global alpha tuning": {
        "alpha": numpy.arange(0.0, 1.0, 0.1).tolist(),
    },
    "auto layer-wise alpha tuning": {
        "alpha": "auto",
        "auto_alpha_args": {
            "init_alpha": 0.8,
            "alpha_min": 0.8,
            "alpha_max": 0.99,
            "alpha_step": 0.01,
            "shared_criterion": "mean",
            "enable_blockwise_loss": False,
        },
    },
}
for name, smoothquant_args in settings.items():
    tuned_model = torch_ext.autotune(model, calib_dataloader, eval_func, smoothquant_args=smoothquant_args)
    result = tuned_model.tuning_result
    print(f"{name}: accuracy {result.score:.4f} (fp32 {result.baseline:.4f}), alphas {result.alphas}")
