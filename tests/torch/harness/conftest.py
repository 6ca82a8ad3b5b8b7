"""A small model, its tokenizer, and tasks of lm-eval in files."""

from __future__ import annotations

import json

import pytest
import torch

SPECIAL = ["[END]", "[START]", "[UNK]"]
WORDS = [
    "the",
    "cat",
    "dog",
    "bird",
    "fish",
    "sat",
    "ran",
    "flew",
    "swam",
    "on",
    "in",
    "mat",
    "sky",
    "sea",
    "and",
    "then",
]


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(WordLevel({word: number for number, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="[END]", bos_token="[START]", unk_token="[UNK]", pad_token="[END]"
    )


@pytest.fixture(scope="session")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def texts():
    """Batches of ids of words, to calibrate on."""
    end = len(SPECIAL) + len(WORDS)
    seeds = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    return [{"input_ids": torch.randint(len(SPECIAL), end, (2, 12), generator=each)} for each in seeds]


def lines():
    """Questions about animals, of several lengths."""
    animals, deeds, places = ["cat", "dog", "bird", "fish"], ["sat", "ran", "flew", "swam"], ["mat", "sky", "sea"]
    for number in range(40):
        animal, deed = animals[number % 4], deeds[number // 4 % 4]
        choices = [f"in the {place}" for place in places] if number % 3 else places
        yield {
            "question": " ".join([f"the {animal} {deed} and then"] * (number % 3 + 1)),
            "choices": choices,
            "answer": number % 3,
            "text": f"the {animal} {deed} on the mat . " * (number % 5 + 1),
        }


COMMON = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
test_split: test
"""

TASKS = {
    "choices": """
task: animal_choices
output_type: multiple_choice
doc_to_text: question
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "texts": """
task: animal_texts
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - metric: word_perplexity
""",
    "answers": """
task: animal_answers
output_type: generate_until
doc_to_text: question
doc_to_target: "the"
generation_kwargs:
  until: ["."]
  max_gen_toks: 6
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
""",
}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """The paths of the tasks' files by name."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines()))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text + COMMON.format(data=data, cache=folder / "cache"))
    return {name: folder / f"{name}.yaml" for name in TASKS}
