"""Train a transformers model to live with 2-bit weights and activations, in transformers' own Trainer."""

import tempfile

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from inc_autotune import torch_ext

VOCABULARY, LENGTH = 8, 12

torch.manual_seed(0)
ids = torch.randint(1, VOCABULARY, (1536, LENGTH))
# Does word 1 occur less often than word 2, as often, or more often?
labels = ((ids == 1).sum(1) - (ids == 2).sum(1)).sign() + 1
rows = [{"input_ids": words, "labels": label} for words, label in zip(ids, labels, strict=True)]
train_rows, test_ids, test_labels = rows[:1024], ids[1024:], labels[1024:]

config = BertConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=LENGTH,
    num_labels=3,
)


def accuracy(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return float((model(input_ids=test_ids).logits.argmax(1) == test_labels).float().mean())


def fit(model: torch.nn.Module, epochs: int, rate: float) -> None:
    """Train a model in place, in Trainer's own loop."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            learning_rate=rate,
            per_device_train_batch_size=64,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=train_rows).train()
    model.eval()


model = BertForSequenceClassification(config)
fit(model, 4, 3e-3)

weight = {"dtype": ["int2"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
activation = {"dtype": ["uint2"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
student = torch_ext.prepare(
    model,
    DataLoader([{"input_ids": row["input_ids"]} for row in train_rows[:128]], batch_size=32),
    capability={"int2": {"static": {"Linear": {"weight": weight, "activation": activation}}}},
    op_type_dict={"Linear": {"weight": {"dtype": ["int2"]}, "activation": {"dtype": ["uint2"]}}},
    progress=False,
)
rounded = accuracy(student.eval())
fit(student, 2, 1e-3)
converted = torch_ext.convert(student)
print(f"right answers: fp32 {accuracy(model):.1%}, rounded {rounded:.1%}, trained {accuracy(converted):.1%}")
