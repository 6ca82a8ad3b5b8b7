"""A student of a transformers model in transformers' own training loop."""

from __future__ import annotations

import pytest
import torch

from inc_autotune import torch_ext
from inc_autotune.testing import Scores
from tests.torch.small_models import decibels, tune

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="Trainer needs it")


def test_trainer_trains_a_student_as_train_func_and_by_itself(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=8, max_position_embeddings=4, **sizes)
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.randint(0, 8, (16, 4))
    batches = [{"input_ids": ids[:8]}, {"input_ids": ids[8:]}]
    rows = [{"input_ids": words, "labels": words[0] % 2} for words in ids]

    def train(student):
        options = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_steps": 2}
        arguments = transformers.TrainingArguments(str(tmp_path), per_device_train_batch_size=8, **options)
        trainer = transformers.Trainer(student, arguments, train_dataset=rows)
        return trainer.train()

    tuned = tune(model, batches, Scores(1.0, 0.5, 1.0), train_func=train)
    assert tuned.tuning_result.trained
    assert any("returned a TrainOutput, which is ignored" in note for note in tuned.tuning_result.notes)
    student = torch_ext.prepare(model, batches, progress=False)
    train(student)
    student.eval()
    with torch.no_grad():
        expected, converted = student(ids).logits, torch_ext.convert(student)(ids).logits
    assert decibels(expected, converted) > 40
    assert not torch.equal(student.classifier.weight, model.classifier.weight)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert any("weight_range" in name for name in tensor_names(checkpoint)), "ranges are resumed too"


def tensor_names(checkpoint):
    """Names of the tensors in a checkpoint of Trainer."""
    from safetensors import safe_open

    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        return list(file.keys())
