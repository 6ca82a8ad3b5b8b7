"""Tests of calibration by programs that do more than call the model: encoders alone, steps of a decoder, methods."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import DataError
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.data import CalibrationFunction
from tests.torch.small_models import decibels

WORDS = 24


class Writer(nn.Module):
    """Reads a picture and writes words about it, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv1d(4, 16, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 3))
        self.table = nn.Embedding(WORDS, 16)
        self.memory, self.state, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, WORDS)

    def forward(self, words: Tensor, encoded: Tensor, cache: list[Tensor]) -> Tensor:
        cache.append(self.state(self.table(words[:, -1])))
        seen = self.memory(encoded.mean(-1))
        return self.head(torch.tanh(torch.stack(cache).mean(0) + seen))

    @torch.no_grad()
    def generate(self, picture: Tensor, steps: int = 5) -> Tensor:
        encoded, cache = self.encoder(picture), []
        words = torch.ones(len(picture), 1, dtype=torch.long)
        for _ in range(steps):
            words = torch.cat([words, self(words, encoded, cache).argmax(-1, keepdim=True)], 1)
        return words


def pictures(count: int = 6, size: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 4, 12, generator=generator) for _ in range(count)]


def types(model: nn.Module) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in model.named_modules()}


def test_what_runs_outside_of_forward_is_quantized_and_steps_count_once() -> None:
    model, data = Writer().eval(), pictures()
    tuned = torch_ext.autotune(model, calib_func=lambda each: [each.generate(x) for x in data], progress=False)
    assert tuned.tuning_result.sampling_size == 18
    converted = torch_ext.convert(tuned)
    assert {name for name, kind in types(converted).items() if "Quantized" in kind} == {
        *("encoder.0", "encoder.3", "memory", "state", "head")
    }
    new = torch.randn(8, 4, 12)
    assert decibels(model.encoder(new), converted.encoder(new)) > 30
    words = model.generate(new)[:, :2]
    assert decibels(*(each(words, model.encoder(new), []) for each in (model, converted))) > 25
    assert torch.equal(tuned.generate(new), converted.generate(new))


@pytest.mark.parametrize("sizes", [(6, 18), (7,)])
def test_a_sampling_size_ends_with_the_last_step_of_a_sample(sizes: tuple[int, ...]) -> None:
    adaptor, data = TorchAdaptor(), pictures()
    calibration = CalibrationFunction(lambda each: [each.generate(x) for x in data])
    assert adaptor.calibrate(Writer().eval(), calibration, sizes) == 18
    every = adaptor.calibration.snapshot(sizes[0]).every
    items = -(-sizes[0] // 3)
    assert every["encoder.0.input"].count == items * 3 * 12
    assert every["state.input"].count == items * 3 * 5
    held_out = adaptor.calibration.held_out
    assert held_out.samples == 9  # of the second, fourth and sixth item
    assert [batch.module for batch in held_out.batches] == ["encoder", *[""] * 3] * 3  # words 1, 2, 4


def test_a_model_that_writes_one_word_again_and_again_is_not_smoothed_by_it() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8)).eval()
    generator = torch.Generator().manual_seed(3)
    few, new = torch.randn(3, 64, generator=generator), torch.randn(64, 64, generator=generator)
    data = [few.repeat(8, 1) * (1 + 1e-3 * torch.randn(24, 1, generator=generator)) for _ in range(6)]
    tuned = torch_ext.autotune(model, data, progress=False)
    smoothed = torch_ext.autotune(model, data, smoothquant_args={"alpha": 0.8}, progress=False)
    assert any("repeat a few" in note for note in tuned.tuning_result.notes)
    assert not tuned.tuning_result.alphas
    decided, given = (decibels(model(new), torch_ext.convert(each)(new)) for each in (tuned, smoothed))
    assert decided > given + 6


class Methods(nn.Module):
    """Has no forward of its own: programs call its methods, and these its modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleDict({"left": _tower(8), "right": _tower(6)})

    def encode(self, side: str, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.towers[side](x), dim=-1)


def _tower(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 8))


def test_a_model_without_a_call_of_its_own_is_compared_by_the_calls_of_its_modules(tmp_path) -> None:
    model = Methods().eval()
    data = [(torch.randn(8, 8), torch.randn(8, 6)) for _ in range(6)]
    model.towers["right"][0].weight.data[:, 0] *= 30

    def compare(each: nn.Module) -> Tensor:
        return torch.stack([each.encode("left", left) @ each.encode("right", right).T for left, right in data])

    reference = compare(model).detach()
    tuned = torch_ext.autotune(
        model,
        calib_func=lambda each: [(each.encode("left", left), each.encode("right", right)) for left, right in data],
        eval_func=lambda each: 1 - float((compare(each) - reference).abs().mean()),
        progress=False,
        tuning_time=30,
        max_trials=3,
    )
    result = tuned.tuning_result
    assert result.sampling_size == 96  # left and right come from the user, and each is a sample
    assert all(error is not None and error > 0 for _, error in result.smoothing[:1])
    converted = torch_ext.convert(tuned)
    assert decibels(reference, compare(converted)) > 25
    torch_ext.save(converted, tmp_path / "saved")
    for again in (
        torch_ext.load(tmp_path / "saved", model),
        torch_ext.convert(torch_ext.apply_recipe(model, result.recipe)),
    ):
        assert torch.equal(compare(again), compare(converted))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(8 + 8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.enter(torch.cat([x, state], -1)))
        return self.leave(state), state


def _stream(model: nn.Module) -> None:
    state = torch.zeros(2, 8)
    for chunk in torch.randn(10, 2, 8, generator=torch.Generator().manual_seed(2)):
        _, state = model(chunk, state)


def _refine(model: nn.Module) -> None:
    for noise in torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(2)):
        x, state = noise, torch.zeros(2, 8)
        for _ in range(4):
            step, state = model(x, state)
            x = x - 0.1 * torch.cat([step, step], -1)


def _in_place(model: nn.Module) -> None:
    buffer = torch.zeros(2, 8)
    for noise in torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(2)):
        buffer = noise.clone()
        for _ in range(3):
            buffer[:, :4] = model(buffer, torch.zeros(2, 8))[0]


@pytest.mark.parametrize(
    ("program", "samples"), [(_stream, 20), (_refine, 10), (_in_place, 10)], ids=["stream", "refine", "in place"]
)
def test_new_data_are_new_samples_and_what_follows_from_outputs_is_none(
    program: Callable[[nn.Module], None], samples: int
) -> None:
    tuned = torch_ext.autotune(Recurrent().eval(), calib_func=program, progress=False)
    assert tuned.tuning_result.sampling_size == samples
    assert not any("held out" in note for note in tuned.tuning_result.notes)


def test_an_operator_called_by_itself_is_watched_in_its_first_call() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)).eval()
    loud = torch.full((2, 8), 50.0)
    adaptor = TorchAdaptor()
    adaptor.calibrate(model, CalibrationFunction(lambda each: [each[0](loud), each[0](torch.rand(2, 8))]), (100,))
    assert float(adaptor.calibration.snapshot().every["0.input"].maximum) == 50
    assert "1" in adaptor.skipped(model)


def test_a_single_operator_is_watched_too() -> None:
    adaptor = TorchAdaptor()
    adaptor.calibrate(nn.Linear(8, 8).eval(), CalibrationFunction(lambda each: each(torch.full((2, 8), 50.0))), (100,))
    assert float(adaptor.calibration.snapshot().every[".input"].maximum) == 50


def test_a_call_that_fails_inside_of_a_module_names_its_inputs() -> None:
    with pytest.raises(DataError, match=r"\[3, 5, 12\]"):
        torch_ext.autotune(Writer().eval(), calib_func=lambda each: each.generate(torch.ones(3, 5, 12)), progress=False)


SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"cache_implementation": "static"}], ids=str)
def test_generate_of_transformers(options: dict[str, object], tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in SIZES.items()}
    config = transformers.BartConfig(
        vocab_size=60, d_model=32, max_position_embeddings=32, init_std=0.3, forced_eos_token_id=None, **shape
    )
    model = transformers.BartForConditionalGeneration(config).eval()
    options = {"max_new_tokens": 4, "do_sample": False, **options}
    texts = [torch.randint(3, 60, (2, 7)) for _ in range(4)]
    reference = [model.generate(input_ids=text, **options) for text in texts]

    def agreement(each: nn.Module) -> Tensor:
        written = [each.generate(input_ids=text, **options) for text in texts]
        return torch.tensor(
            [
                float(one.shape == two.shape and (one == two).float().mean())
                for one, two in zip(written, reference, strict=True)
            ]
        )

    tuned = torch_ext.autotune(
        model,
        None,
        agreement,
        calib_func=lambda each: [each.generate(input_ids=text, **options) for text in texts],
        accuracy_criterion={"absolute": 0.5},
        progress=False,
    )
    assert tuned.tuning_result.sampling_size == 8
    converted = torch_ext.convert(tuned)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert all("Quantized" in types(converted)[name] for name in linears)
    assert converted.can_generate()
    assert converted.generation_config.to_dict() == model.generation_config.to_dict()
    written = converted.generate(input_ids=texts[0], **options)
    torch_ext.save(converted, tmp_path / "saved")
    recipe = tuned.tuning_result.recipe
    for again in (torch_ext.load(tmp_path / "saved"), torch_ext.convert(torch_ext.apply_recipe(model, recipe))):
        assert torch.equal(again.generate(input_ids=texts[0], **options), written)
