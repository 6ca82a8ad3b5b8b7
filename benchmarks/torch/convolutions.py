"""Convolutions in int8 against fp32, by part:

`transposed`: single transposed convolutions, as the library computes them and in the two ways it does not.
`grouped`: single convolutions in groups, down to one channel each, alone and between integer convolutions.
`models`: whole nets, traced and compiled, beside torch's FX quantization and, where torchao is installed, PT2E.

Every line is one shape or model; numbers are ratios of the fp32 module's CPU time, measured interleaved on one thread.

    python -m benchmarks.torch.convolutions transposed
    python -m benchmarks.torch.convolutions grouped
    python -m benchmarks.torch.convolutions models [--models UNet MobileNetV2] [--profile]
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product

import torch
import torch._inductor.config
from torch import Tensor, nn

from benchmarks.torch.common import interleaved, parse, traced
from benchmarks.torch.convolutional_models import MODELS, made
from benchmarks.torch.profiling import print_profile
from inc_autotune import torch_ext
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization import signal_to_noise_db
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules import QuantizedConvolution, convert_module, prepare_module
from inc_autotune.torch_ext.target import kernels

STATIC = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)

TRANSPOSED = [
    # channels in and out, kernel, stride, padding, output padding, height and width
    (64, 32, 2, 2, 0, 0, 32),
    (128, 64, 2, 2, 0, 0, 16),
    (256, 128, 2, 2, 0, 0, 8),
    (64, 32, 4, 2, 1, 0, 32),
    (128, 64, 4, 2, 1, 0, 16),
    (256, 128, 4, 2, 1, 0, 8),
    (64, 32, 3, 2, 1, 1, 32),
    (128, 64, 3, 2, 1, 1, 16),
    (256, 128, 3, 2, 1, 1, 8),
    (64, 64, 3, 1, 1, 0, 32),
    (16, 16, 2, 2, 0, 0, 64),
]


def quantized(module: nn.Module, x: Tensor) -> nn.Module:
    """A module in int8, calibrated on its input."""
    y = module(x)
    limits = (float(each) for each in (x.min(), x.max(), y.min(), y.max()))
    calibration = OperatorCalibration(next(limits), next(limits), None, next(limits), next(limits))
    return convert_module(prepare_module(module, STATIC, calibration))


def by_phase(module: nn.ConvTranspose2d, x: Tensor) -> Callable[[], Tensor]:
    """One convolution for each phase; the weights' values are not the module's, which takes no other time."""
    (kernel, _), (stride, _) = module.kernel_size, module.stride
    channels, batch, size = module.out_channels, x.shape[0], x.shape[-1]
    taps = [len(range(rest, kernel, stride)) for rest in range(stride)]
    packed = {}
    for rows, columns in product(range(stride), repeat=2):
        if taps[rows] and taps[columns]:
            shape = (channels, module.in_channels, taps[rows], taps[columns])
            packed[rows, columns] = pack(shape, (taps[rows] - 1, taps[columns] - 1))

    def run() -> Tensor:
        integers = torch.quantize_per_tensor(x, 0.03, 128, torch.quint8)
        whole = (batch, size, stride, size, stride, channels)
        out = torch._empty_affine_quantized(whole, scale=0.05, zero_point=128, dtype=torch.quint8)
        for (rows, columns), weight in packed.items():
            y = kernels.integer_convolution(integers, weight, 2, 0.05, 128).permute(0, 2, 3, 1)
            out[:, :, rows, :, columns] = y[:, :size, :size]
        return out.view(batch, size * stride, size * stride, channels).permute(0, 3, 1, 2).dequantize()

    return run


def zero_stuffed(module: nn.ConvTranspose2d, x: Tensor) -> Callable[[], Tensor]:
    """One convolution on an input with zeros between its values."""
    (kernel, _), (stride, _) = module.kernel_size, module.stride
    packed = pack((module.out_channels, module.in_channels, kernel, kernel), (kernel - 1, kernel - 1))
    size = (x.shape[-1] - 1) * stride + 1

    def run() -> Tensor:
        stuffed = x.new_zeros(*x.shape[:2], size, size)
        stuffed[:, :, ::stride, ::stride] = x
        integers = torch.quantize_per_tensor(stuffed, 0.03, 128, torch.quint8)
        return kernels.integer_convolution(integers, packed, 2, 0.05, 128).dequantize()

    return run


def pack(shape: tuple[int, ...], padding: tuple[int, int]) -> kernels.PackedWeight:
    weight = torch.randint(-64, 64, shape, dtype=torch.int8)
    return kernels.pack_convolution(weight, torch.full((shape[0],), 0.01), None, (1, 1), padding, (1, 1), 1)


def transposed(repeat: int) -> None:
    print("| channels | kernel, stride | input | fp32, us | eager | traced | by phase | zero-stuffed |")
    print("|---|---|---|---|---|---|---|---|")
    for inputs, outputs, kernel, stride, padding, output_padding, size in TRANSPOSED:
        torch.manual_seed(0)
        module = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, output_padding).eval()
        x = torch.randn(1, inputs, size, size)
        integer = quantized(module, x)
        frozen = traced(integer, x)
        calls = [
            *(partial(form, x) for form in (module, integer, frozen)),
            by_phase(module, x),
            zero_stuffed(module, x),
        ]
        first, *others = interleaved(calls, repeat)
        ratios = " | ".join(f"{first / each:.2f}" for each in others)
        print(f"| {inputs} to {outputs} | {kernel}, {stride} | {size}x{size} | {first * 1e6:.0f} | {ratios} |")


def fx_quantized(model: nn.Module, batches: list[Tensor]) -> nn.Module:
    """By torch.ao's FX graph mode, in the same kernels; it has none for transposed convolutions by channels."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    with kernels.quantized_engine("onednn"):
        mapping = get_default_qconfig_mapping("onednn").set_object_type(nn.ConvTranspose2d, None)
        prepared = prepare_fx(model, mapping, (batches[0],))
        for x in batches:
            prepared(x)
        result: nn.Module = convert_fx(prepared)
    return result


def pt2e_quantized(model: nn.Module, batches: list[Tensor]) -> nn.Module:
    """By torchao's PT2E for inductor."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    exported = torch.export.export(model, (batches[0],)).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    for x in batches:
        prepared(x)
    result: nn.Module = move_exported_model_to_eval(convert_pt2e(prepared))
    return result


def forms_of(name: str) -> tuple[dict[str, Callable[[Tensor], Tensor]], Tensor, str]:
    """Forms of a model by name, the first of them in fp32, an image that none was calibrated on, and what is int8."""
    model, batches = made(name)
    with torch.enable_grad():
        tuned, adding = (
            torch_ext.autotune(
                model, batches[:-1], lambda candidate: 1.0, recipes={"residual_add_fusion": each}, progress=False
            )
            for each in (False, True)
        )
    dtypes = [operator.dtype for operator in tuned.tuning_result.operators]
    integer, x = torch_ext.convert(tuned), batches[-1]
    plain = copy.deepcopy(integer)
    for module in plain.modules():
        if isinstance(module, QuantizedConvolution):
            module._hands_on_integers = False
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "fp32 eager": model,
        "fp32 traced": traced(model, x),
        "fp32 compiled": torch.compile(copy.deepcopy(model)),
        "int8 eager": integer,
        "int8 traced": traced(integer, x),
    }
    if any(each.calibration.get("rounds_sums") for each in adding.tuning_result.recipe.operators.values()):
        forms["int8 eager, sums in integers"] = torch_ext.convert(adding)
        forms["int8 traced, sums in integers"] = traced(torch_ext.convert(adding), x)
    forms |= {
        "int8 traced, floats between": traced(plain, x),
        "int8 compiled": torch.compile(integer),
        "FX traced": traced(fx_quantized(model, batches[:-1]), x),
    }
    if find_spec("torchao") is not None:
        try:
            forms["PT2E compiled"] = torch.compile(pt2e_quantized(model, batches[:-1]))
        except ValueError as error:  # its quantizer knows no ReLU whose output has two readers
            print(f"PT2E fails on {name}: {error}", file=sys.stderr)
    return forms, x, f"{dtypes.count('int8')} of {len(dtypes)}"


def models(repeat: int, names: list[str], profiles: bool) -> None:
    print("| model | form | ms | times faster | SQNR, dB | int8 |")
    print("|---|---|--:|--:|--:|--:|")
    for name in names:
        forms, x, integers = forms_of(name)
        expected = forms["fp32 eager"](x)
        seconds = interleaved([partial(form, x) for form in forms.values()], repeat)
        for (form, run), each in zip(forms.items(), seconds, strict=True):
            noise = "" if form.startswith("fp32") else f"{signal_to_noise_db(expected, run(x)):.1f}"
            share = integers if form.startswith("int8") else ""
            print(f"| {name} | {form} | {each * 1e3:.2f} | {seconds[0] / each:.2f} | {noise} | {share} |", flush=True)
        for form in ("int8 compiled", "PT2E compiled"):
            if profiles and form in forms:
                print_profile(f"{name}, {form}", partial(forms[form], x))
        torch._dynamo.reset()


GROUPED = [(128, 1, 28), (128, 2, 28), (128, 4, 28), (128, 32, 28), (256, 32, 14), (128, 128, 28), (384, 384, 14)]
"""Channels, groups, height and width."""


def grouped(repeat: int) -> None:
    print("| channels | groups | input | fp32, us | traced | between integer convolutions, eager |")
    print("|--:|--:|---|--:|--:|--:|")
    for channels, groups, size in GROUPED:
        torch.manual_seed(0)
        module = nn.Conv2d(channels, channels, 3, padding=1, groups=groups).eval()
        x = torch.randn(1, channels, size, size)
        alone, between = quantized(module, x), quantized(module, x)
        between._hands_on_integers = True
        calls = [partial(module, x), partial(traced(alone, x), x), partial(between, between.as_handed_on(x))]
        first, *others = interleaved(calls, repeat)
        ratios = " | ".join(f"{first / each:.2f}" for each in others)
        print(f"| {channels} | {groups} | {size}x{size} | {first * 1e6:.0f} | {ratios} |")


PARTS = ("transposed", "grouped", "models")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("part", choices=PARTS)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeat", type=int, default=9)
    arguments.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments.add_argument(
        "--profile", action="store_true", help="also show where compiled int8 models spend their time"
    )
    options = parse(arguments)
    torch._inductor.config.freezing = True
    torch._inductor.config.cpp.enable_kernel_profile = options.profile
    with torch.no_grad():
        if options.part == "transposed":
            transposed(options.repeat)
        elif options.part == "grouped":
            grouped(options.repeat)
        else:
            models(options.repeat, options.models, options.profile)


if __name__ == "__main__":
    main()
