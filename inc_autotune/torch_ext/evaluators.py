"""Evaluations of causal language models that yield a score for each sample.

With scores of single samples the verdict is a paired test, and an evaluation ends as soon as it is clear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune.core.errors import ArgumentError, DataError, EvaluationError

Tokenizer = Callable[[str], Any]
"""From a text to its token ids, or to a mapping with `input_ids`, as tokenizers of the transformers library."""


class LogLikelihood:
    """Mean log-likelihood, in nats, of the tokens of each window of some texts; higher is better.

    The score of a model is minus the logarithm of its perplexity, see `perplexity`. A goal on perplexity is an absolute
    one here: within 1 % is `accuracy_criterion={"absolute": math.log(1.01)}`.

    Args:
        texts: strings, or token ids where `tokenizer` is None.
        tokenizer: see `Tokenizer`. Between two texts stands its `eos_token_id`, where it has one.
        window: tokens that a model reads at once, each window without those before it.
        seed: of the order of the windows, which is the same for every model.

    Raises:
        ArgumentError: `window` is no number from 2, or the tokenizer cannot be called.
        DataError: the texts have less than two tokens, or are none.
    """

    def __init__(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        tokenizer: Tokenizer | None = None,
        *,
        window: int = 512,
        seed: int = 0,
    ) -> None:
        if not isinstance(window, int) or isinstance(window, bool) or window < 2:
            raise ArgumentError(f"window={window!r}: not a number of tokens. Allowed: a whole number from 2.")
        self.window = window
        end = getattr(tokenizer, "eos_token_id", None)
        tokens: list[int] = []
        for text in _checked_texts(texts):
            tokens += [] if not tokens or end is None else [int(end)]
            tokens += _tokens(text, tokenizer)
        cut = [tokens[start : start + window] for start in range(0, len(tokens), window)]
        windows = [torch.tensor(each) for each in cut if len(each) > 1]
        if not windows:
            raise DataError(f"texts: {len(tokens)} tokens: nothing to predict. Give at least two.")
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
        self.windows = [windows[index] for index in order.tolist()]

    def __call__(self, model: nn.Module) -> Iterator[float]:
        """A score for each window."""
        check_tokens(model, max(map(len, self.windows)), max(int(each.max()) for each in self.windows))
        for tokens in self.windows:
            yield float(_log_likelihoods(model, tokens).mean())

    @staticmethod
    def perplexity(score: float) -> float:
        """The perplexity that a score stands for."""
        return math.exp(-score)


@dataclass(frozen=True)
class Question:
    """A question of `MultipleChoice`.

    Args:
        context: what stands before every choice.
        choices: continuations of it, at least two.
        answer: index of the right one.
    """

    context: str
    choices: Sequence[str]
    answer: int


class MultipleChoice:
    """1 for each question whose right choice the model finds most likely, else 0.

    Args:
        questions: at least one.
        tokenizer: see `Tokenizer`. A context and its choice are tokenized together.
        normalized: whether the log-likelihood of a choice is divided by its number of bytes, without which short
            choices win.
        seed: of the order of the questions, which is the same for every model.

    Raises:
        DataError: there is no question, one has less than two choices, no right one, an empty context or choice.
    """

    def __init__(
        self, questions: Sequence[Question], tokenizer: Tokenizer, *, normalized: bool = True, seed: int = 0
    ) -> None:
        if not questions:
            raise DataError("questions: there is none. Give at least one.")
        self.normalized = normalized
        asked = []
        for number, question in enumerate(questions):
            _check_question(number, question)
            shared = len(_tokens(question.context, tokenizer))
            choices = [torch.tensor(_tokens(question.context + each, tokenizer)) for each in question.choices]
            # A tokenizer may join the end of the context with the start of a choice: then that token counts.
            starts = [max(min(shared, len(each) - 1), 1) for each in choices]
            lengths = [len(each.encode()) if normalized else 1 for each in question.choices]
            asked.append((list(zip(choices, starts, lengths, strict=True)), question.answer))
        order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(seed))
        self._asked = [asked[index] for index in order.tolist()]

    def __call__(self, model: nn.Module) -> Iterator[float]:
        """1 or 0 for each question."""
        every = [tokens for choices, _ in self._asked for tokens, _, _ in choices]
        check_tokens(model, max(map(len, every)), max(int(each.max()) for each in every))
        for choices, answer in self._asked:
            found = [
                float(_log_likelihoods(model, tokens)[start - 1 :].sum()) / length for tokens, start, length in choices
            ]
            yield float(found.index(max(found)) == answer)


@torch.no_grad()
def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits [tokens, vocabulary] of a causal language model, in its own type, for int64 [tokens].

    Raises:
        EvaluationError: the model returns something else.
    """
    output = model(tokens.unsqueeze(0))
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    logits = output[0] if logits is None and isinstance(output, tuple) and output else logits
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != (1, len(tokens)):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise EvaluationError(
            f"eval_func: the model returned {shape} for [1, {len(tokens)}] tokens. Expected logits [1, {len(tokens)}, "
            "vocabulary], in a tensor, first in a tuple, or as `logits`: a causal language model."
        )
    return logits[0]


def check_tokens(model: nn.Module, longest: int, largest: int) -> None:
    """Refuse token ids or lengths that the model cannot have been made for.

    Args:
        model: with a `config` of the transformers library; nothing is known of others.
        longest: number of tokens that it is to read at once.
        largest: token id.

    Raises:
        EvaluationError: one of them is too large.
    """
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(limit, int) and longest > limit:
        raise EvaluationError(
            f"eval_func: {longest} tokens at once, and the model was made for {limit} (max_position_embeddings). Give "
            "a smaller window, or shorter questions."
        )
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if isinstance(vocabulary, int) and largest >= vocabulary:
        raise EvaluationError(
            f"eval_func: token id {largest}, and the model knows ids below {vocabulary}: this is the tokenizer of "
            "another model. Load the tokenizer from where the model comes from."
        )


def _log_likelihoods(model: nn.Module, tokens: Tensor) -> Tensor:
    """Of every token but the first, float32 [tokens - 1]."""
    return -F.cross_entropy(logits_of(model, tokens)[:-1].float(), tokens[1:], reduction="none")


def _checked_texts(texts: Any) -> Sequence[Any]:
    if isinstance(texts, str):
        raise DataError("texts: one string. Give a list of them: [text].")
    if not isinstance(texts, Sequence) or not texts:
        raise DataError(f"texts: {'none' if isinstance(texts, Sequence) else type(texts).__name__}. Give a list.")
    return texts


def _tokens(text: Any, tokenizer: Tokenizer | None) -> list[int]:
    if tokenizer is None:
        if isinstance(text, str):
            raise ArgumentError("tokenizer=None: the texts are strings. Give the model's tokenizer, or token ids.")
        return [int(each) for each in text]
    if not callable(tokenizer):
        raise ArgumentError(
            f"tokenizer: a {type(tokenizer).__name__}. Allowed: a function from a text to token ids, such as a "
            "tokenizer of the transformers library."
        )
    found = tokenizer(text)
    ids = found["input_ids"] if hasattr(found, "keys") else found
    return [int(each) for each in ids]


def _check_question(number: int, question: Question) -> None:
    place = f"questions[{number}]"
    if not question.context or len(question.choices) < 2 or not all(question.choices):
        raise DataError(f"{place}: needs a context and at least two choices, none of them empty.")
    if not 0 <= question.answer < len(question.choices):
        raise DataError(
            f"{place}.answer={question.answer!r}: there are {len(question.choices)} choices, counted from 0."
        )
