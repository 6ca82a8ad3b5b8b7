"""A new data type is a few lines of capability: Conv2d with weights and activations of 7 bits down to 1.

No processor has kernels for most of these types, so they are simulated: computed in fp32 with the values the narrow
integers can hold. The result says so and claims no speed.
"""

import torch
import yaml
from sklearn.datasets import load_digits
from torch import nn

from inc_autotune import torch_ext

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images).float().unsqueeze(1) / 16, torch.tensor(digits.target)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 4 * 4, 10)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(10):
    for batch in torch.randperm(1300).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
model.eval()


def accuracy(candidate: nn.Module) -> float:
    with torch.no_grad():
        return float((candidate(images[1300:]).argmax(1) == labels[1300:]).float().mean())


print(f"fp32  {accuracy(model):6.1%}")
for bits in range(7, 0, -1):
    capability = f"""
        int{bits}:
          static:
            Conv2d:
              weight: {{dtype: [int{bits}], scheme: [sym], granularity: [per_channel], algorithm: [minmax]}}
              activation: {{dtype: [uint{bits}], scheme: [asym], granularity: [per_tensor], algorithm: [minmax]}}
    """
    tuned = torch_ext.autotune(
        model,
        images[:1300].split(50),
        capability=yaml.safe_load(capability),
        op_type_dict={"Conv2d": {"weight": {"dtype": [f"int{bits}"]}, "activation": {"dtype": [f"uint{bits}"]}}},
        progress=False,
    )
    print(f"int{bits}  {accuracy(torch_ext.convert(tuned)):6.1%}")

print(f"\n{tuned.tuning_result}")
