"""A small language model in bf16, as checkpoints come, with weights of 4 bits. Takes about 20 seconds."""

import math
import pydoc_data.topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from inc_autotune import torch_ext
from inc_autotune.torch_ext.evaluators import LogLikelihood

# A model that has learned a little of Python's own documentation, byte by byte. Yours comes from `from_pretrained`.
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
model = LlamaForCausalLM(config)
texts = [list(text.encode()) for _, text in sorted(pydoc_data.topics.topics.items())]
learned = torch.tensor([byte for text in texts[:40] for byte in text])
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(60):
    starts = torch.randint(len(learned) - 64, (16,)).tolist()
    batch = torch.stack([learned[start : start + 64] for start in starts])
    optimizer.zero_grad()
    model(batch, labels=batch).loss.backward()
    optimizer.step()
model.eval().bfloat16()

# part: tune
evaluate = LogLikelihood(texts[60:62], window=128)  # of bytes; of words, give strings and the model's tokenizer
tuned = torch_ext.autotune(
    model,
    [{"input_ids": torch.tensor([text[:128]])} for text in texts[40:46]],
    evaluate,
    approach="weight_only",
    op_type_dict={"Linear": {"weight": {"dtype": ["int4"], "granularity": ["per_group_32"]}}},
    accuracy_criterion={"absolute": math.log(1.02)},
)
print(tuned.tuning_result)

# part: generate
quantized = torch_ext.convert(tuned)
prompt = torch.tensor([list(b"The statement ")])
for name, form in (("bf16", model), ("int4", quantized)):
    scores = list(evaluate(form))
    perplexity = LogLikelihood.perplexity(sum(scores) / len(scores))
    text = bytes(form.generate(prompt, max_new_tokens=40, do_sample=False, pad_token_id=0)[0].tolist())
    print(f"{name}: perplexity of a byte {perplexity:.3f}; it writes {text.decode(errors='replace')!r}")
