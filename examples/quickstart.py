"""Train a small CNN on handwritten digits, make it INT8, and compare accuracy and speed. Takes about half a minute."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, TensorDataset

from inc_autotune import torch_ext

# part: model
torch.manual_seed(0)
digits = load_digits()  # 1,797 images of 8 x 8 pixels, part of scikit-learn
images, labels = torch.tensor(digits.images).float().unsqueeze(1) / 16, torch.tensor(digits.target)
train, test = TensorDataset(images[:1300], labels[:1300]), TensorDataset(images[1300:], labels[1300:])


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


features = [convolution(1, 64), convolution(64, 64), convolution(64, 128, stride=2), convolution(128, 128)]
model = nn.Sequential(*features, nn.Flatten(), nn.Linear(128 * 4 * 4, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(3):
    for x, y in DataLoader(train, batch_size=64, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
model.eval()


# part: evaluation
def accuracy(candidate: nn.Module) -> float:
    with torch.no_grad():
        return sum(int((candidate(x).argmax(1) == y).sum()) for x, y in DataLoader(test, 100)) / len(test)


# part: tune
tuned = torch_ext.autotune(
    model,
    DataLoader(train, batch_size=20),
    accuracy,
    smoothquant_args={"alpha": "auto"},
    sampling_sizes=[100],
    accuracy_criterion={"relative": 0.01},
)
# part: deploy
quantized = torch_ext.convert(tuned)
example = images[:32]
traced = torch.jit.freeze(torch.jit.trace(quantized, example))

# part: compare
print(tuned.tuning_result)
print("\n                  accuracy  ms for 32 images, one thread")
for name, candidate in (("fp32", model), ("int8", quantized), ("int8, jit traced", traced)):
    timer = Timer("candidate(example)", "torch.set_grad_enabled(False)", globals=locals())
    print(f"{name:16}  {accuracy(candidate):8.1%}  {timer.blocked_autorange(min_run_time=1).median * 1e3:8.2f}")
