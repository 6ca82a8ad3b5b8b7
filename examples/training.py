"""Train a small CNN to live with 3-bit weights and activations: by `train_func`, and in a loop of one's own."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from inc_autotune import torch_ext

torch.manual_seed(0)
digits = load_digits()  # 1,797 images of 8 x 8 pixels, part of scikit-learn
images, labels = torch.tensor(digits.images).float().unsqueeze(1) / 16, torch.tensor(digits.target)
loader = DataLoader(TensorDataset(images[:1300], labels[:1300]), batch_size=64, shuffle=True)
test_images, test_labels = images[1300:], labels[1300:]


class Module(nn.Module):
    """A model that says how it is trained, as Lightning's do."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.head = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self, rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), rate)


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(test_images).argmax(1) == test_labels).float().mean())


def fit(model: Module, epochs: int, rate: float) -> Module:
    """The best model of all epochs."""
    optimizer, best = model.configure_optimizers(rate), (-1.0, model)
    for _ in range(epochs):
        model.train()
        for batch in loader:
            optimizer.zero_grad()
            model.training_step(batch).backward()
            optimizer.step()
        model.eval()
        best = max(best, (accuracy(model), copy.deepcopy(model)), key=lambda pair: pair[0])
    return best[1]


model = fit(Module(), 4, 3e-3).eval()

weight = {"dtype": ["int3"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
activation = {"dtype": ["uint3"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
three_bits = {"static": {kind: {"weight": weight, "activation": activation} for kind in ("Conv2d", "Linear")}}
settings = {
    "capability": {"int3": three_bits},
    "op_type_dict": {".*": {"weight": {"dtype": ["int3"]}, "activation": {"dtype": ["uint3"]}}},
    "progress": False,
}

# Only where rounding alone misses the goal:
tuned = torch_ext.autotune(
    model, loader, accuracy, train_func=lambda student: fit(student, 3, 1e-3), max_trials=3, **settings
)
print(tuned.tuning_result)

# A loop of one's own:
student = torch_ext.prepare(model, loader, **settings)
student = fit(student, 3, 1e-3)
for name, each in (("fp32", model), ("student", student), ("converted", torch_ext.convert(student))):
    print(f"{name:10} {accuracy(each):.1%}")
