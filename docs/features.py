"""Write the tables of docs/features.md, what each extension offers, from the code: `python docs/features.py`.

A table stands between `<!-- name -->` and `<!-- /name -->`; what is written around them is kept. With `--check` nothing
is written: exit status 1 where a table is not what the code says, 75 where a framework is missing, so that nothing
could be compared.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arguments.autotune import SMOOTH_QUANT_RECIPES, WEIGHT_ROUNDING, Objective
from inc_autotune.core.errors import MissingDependencyError
from inc_autotune.core.op_config import FP32_TENSOR, OpConfig, TensorConfig
from inc_autotune.core.search.strategy import STRATEGIES
from inc_autotune.core.search.strategy.registry import NEED_GRADIENTS
from inc_autotune.core.space.capability import load_capability
from inc_autotune.core.vocabulary import APPROACHES, CORRECTIONS, INTEGER_DTYPES, SCHEMES

PAGE = Path(__file__).with_name("features.md")
PLACE = r"<!-- ([\w ]+) -->(.*?)<!-- /\1 -->"
NOTHING_COMPARED = 75
NEWEST = "9999"
"""A framework version above all others: the newest block of a capability counts."""

VERBS = (
    *(
        "autotune",
        "prepare",
        "apply_recipe",
        "convert",
        "to_fp32",
        "session",
        "save",
        "load",
        "save_pretrained",
        "from_pretrained",
        "inspect",
        "compare",
    ),
    "to_litert",
    "compile_to_package",
    "convert_to_openvino",
    "save_compressed_tensors",
    "int8_cache",
    "quantize_checkpoint",
)

ABILITIES = {
    ("calibrate",): "one pass over the data for all candidates",
    ("known_types",): "rules for types of the framework that a model lacks are no mistake",
    ("groups",): "operators that share an input are decided together",
    ("input_groups",): "SmoothQuant, with an alpha for each layer",
    ("integer_product",): "a faster alpha search",
    (
        "smoothing_forms",
    ): "smoothing with exponents of their own for activations and weights, where that lowers the error",
    ("rounded_units",): "weights rounded by the second moments of their inputs, where that lowers the error",
    ("corrections",): "mean output and weights corrected after rounding, where that lowers the error",
    ("student", "student_state"): 'quantization-aware training: `train_func`, `approach="qat"`',
    ("blocks", "block_reference", "run_block"): "`enable_blockwise_loss`: one alpha for each repeated block",
    ("reference_outputs", "run"): "smoothing plans and units compared at the model's output",
    ("gradient_harms",): "ranking from gradients; the strategies that need them",
    ("half_quantized",): "whether the weights or the activations of a unit do the harm",
    ("measure",): "a measured speed-up",
    ("measure_threads",): "the speed-up in several threads",
    ("unit_speeds",): "units whose integer form is not faster stay in fp32",
    ("fp32_reason",): "operators that are not worth it stay in fp32, with a reason",
    ("is_simulated",): "what has no kernel is computed in floats with the values of the integers",
    ("skipped", "operator_type"): "a reason for each operator that cannot be quantized",
    ("notes",): "remarks in the result, such as a missing instruction set",
    ("model_size",): 'the ratio of sizes; `objective="modelsize"`',
    ("operator_weights",): "how much of the weights is int8, and what holds the rest",
    ("footprint",): '`objective="footprint"`: memory at run time',
    ("fingerprint",): "trials found again in a storage",
    ("to_recipe",): "a recipe that builds the model again without data",
    ("recipe_settings",): "what was decided for the model as a whole, in the recipe",
    ("tuned_model",): "a form for the user that is not the candidate: fake-quantized, or prepared",
}
"""What an adaptor's optional methods bring, as in adaptors.md."""

OBJECTIVES = {"performance": "measure", "modelsize": "model_size", "footprint": "footprint"}
"""The method that measures what an objective counts."""

NOTHING = ("...", "pass", "return", "return None", "return False", "return ()", "return []", "return {}")

Row = Sequence[str]


@dataclass(frozen=True)
class Target:
    """What `autotune` can tune for: a backend, what it may make of operators, what runs it, and forms of its graphs."""

    extension: str
    backend: str
    capability: Path
    runs_on: str
    forms: Sequence[str] = ()

    def options(self) -> dict[str, tuple[OpConfig, ...]]:
        """What each operator type may become."""
        return dict(load_capability(self.capability, NEWEST).table)

    def approaches(self) -> list[str]:
        """Those of any operator type, in the order in which they are preferred."""
        found = {option.approach for options in self.options().values() for option in options}
        return [each for each in APPROACHES if each in found]


@dataclass(frozen=True)
class Tuner:
    """An adaptor, the targets it serves (the usual one first), and the names that `recipes` may have."""

    name: str
    adaptor: type[Adaptor]
    targets: Sequence[Target]
    recipes: Sequence[str]


# What an adaptor does


def offers(adaptor: type[Adaptor], method: str) -> bool:
    """Whether a class has a method of its own that does something.

    The one inherited from `Adaptor`, None, and a body that only returns None or something empty leave the feature out.
    """
    own = getattr(adaptor, method, None)
    return own is not None and own is not getattr(Adaptor, method, None) and not _does_nothing(own)


def recipes(adaptor: type[Adaptor], own: Iterable[str] = ()) -> list[str]:
    """Names of the recipes that have an effect: those of the core, and those of the framework's own."""
    rounding = (WEIGHT_ROUNDING,) if offers(adaptor, "rounded_units") else ()
    return [*SMOOTH_QUANT_RECIPES, *rounding, *(CORRECTIONS if offers(adaptor, "corrections") else ()), *own]


def _does_nothing(function: Callable[..., Any]) -> bool:
    """Whether the body of a function is a docstring and one of `NOTHING`, at most."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    body = definition.body[1:] if ast.get_docstring(definition) is not None else definition.body
    return all(ast.unparse(statement) in NOTHING for statement in body)


# Tables


def table(columns: Row, rows: Iterable[Row]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def yes(condition: bool) -> str:
    return "yes" if condition else "-"


def code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words) or "-"


def merged(rows: Iterable[Row]) -> Sequence[Row]:
    """Neighbours that differ in their second cell only become one row."""
    result: list[list[str]] = []
    for first, second, *others in rows:
        if result and [result[-1][0], *result[-1][2:]] == [first, *others]:
            result[-1][1] += f", {second}"
        else:
            result.append([first, second, *others])
    return result


def verbs(modules: Mapping[str, ModuleType]) -> str:
    """Every verb with its arguments; those of `autotune` have a table of their own."""

    def cell(module: ModuleType, verb: str) -> str:
        if verb == "autotune" or not hasattr(module, verb):
            return yes(hasattr(module, verb))
        bare = [each.replace(annotation=each.empty) for each in parameters(module, verb).values()]
        return f"`{inspect.Signature(bare)}`"

    offered = {name for each in modules.values() for name in each.__all__ if inspect.isfunction(getattr(each, name))}
    if offered != set(VERBS):
        raise ValueError(f"VERBS: {sorted(offered ^ set(VERBS))} are verbs there or in an extension, not in both.")
    rows = [[f"`{verb}`", *(cell(each, verb) for each in modules.values())] for verb in VERBS]
    return table(["verb", *modules], rows)


def parameters(module: ModuleType, verb: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(getattr(module, verb)).parameters


def autotune_arguments(modules: Mapping[str, ModuleType]) -> str:
    """Every argument with its default; first those that all extensions have."""
    given = {name: parameters(module, "autotune") for name, module in modules.items()}

    def cell(extension: str, argument: str) -> str:
        if argument not in given[extension]:
            return "-"
        default = given[extension][argument].default
        return "required" if default is inspect.Parameter.empty else f"`{default!r}`"

    names = dict.fromkeys(itertools.chain.from_iterable(given.values()))
    ordered = sorted(names, key=lambda name: not all(name in each for each in given.values()))
    rows = [[f"`{argument}`", *(cell(extension, argument) for extension in modules)] for argument in ordered]
    return table(["argument", *modules], rows)


def argument_values(tuners: Sequence[Tuner]) -> str:
    """Values of `strategy`, `approach`, `objective` and `recipes`, by the adaptors that serve them."""
    rows = [
        [
            f'`strategy="{name}"`',
            *(yes(name not in NEED_GRADIENTS or offers(each.adaptor, "gradient_harms")) for each in tuners),
        ]
        for name in STRATEGIES
    ]
    for name in APPROACHES:
        rows.append([f'`approach="{name}"`', *(yes(name in each.targets[0].approaches()) for each in tuners)])
    rows.append(['`approach="qat"`', *(yes(offers(each.adaptor, "student")) for each in tuners)])
    for name in get_args(Objective):
        rows.append([f'`objective="{name}"`', *(yes(offers(each.adaptor, OBJECTIVES[name])) for each in tuners)])
    for name in dict.fromkeys(itertools.chain.from_iterable(each.recipes for each in tuners)):
        rows.append([f'`recipes={{"{name}": ...}}`', *(yes(name in each.recipes) for each in tuners)])
    return table(["value", *(each.name for each in tuners)], rows)


def backends(targets: Sequence[Target]) -> str:
    rows = [
        [each.extension, each.backend, each.runs_on, code(each.forms), ", ".join(each.approaches())] for each in targets
    ]
    return table(["extension", "backend", "runs on", "forms of the graph", "approaches"], rows)


def operators(targets: Sequence[Target]) -> str:
    """What each operator type may become: dtypes of the activation and of the weight."""

    def cell(options: Sequence[OpConfig], approach: str) -> str:
        found = [option for option in options if option.approach == approach]
        activations = dict.fromkeys(option.activation.dtype for option in found if not option.activation.is_float)
        weights = dict.fromkeys(option.weight.dtype for option in found)
        return " x ".join(", ".join(each) for each in (activations, weights) if each) or "-"

    rows = []
    for target in targets:
        for op_type, options in target.options().items():
            floats = [option.dtype for option in options if not option.is_quantized and option.dtype != "fp32"]
            cells = [cell(options, approach) for approach in APPROACHES]
            rows.append([target.backend, op_type, *cells, ", ".join(floats) or "-"])
    return table(["backend", "operator types", *APPROACHES, "float"], merged(rows))


def calibration(targets: Sequence[Target]) -> str:
    """Words of the capability about static operators, over all operator types."""

    def cell(options: Sequence[OpConfig], part: str, key: str) -> str:
        words = dict.fromkeys(getattr(getattr(option, part), key) for option in options)
        return ", ".join(word for word in words if word) or "-"

    columns = {
        "activation range": ("activation", "algorithm"),
        "activation scheme": ("activation", "scheme"),
        "weight range": ("weight", "algorithm"),
        "weight scheme": ("weight", "scheme"),
        "weight granularity": ("weight", "granularity"),
    }
    rows = []
    for target in targets:
        every = itertools.chain.from_iterable(target.options().values())
        static = [option for option in every if option.approach == "static"]
        rows.append([target.extension, target.backend, *(cell(static, *where) for where in columns.values())])
    return table(["extension", "backends", *columns], merged(rows))


def kernels(target: Target, has_kernel: Callable[[str, OpConfig], bool]) -> Sequence[Row]:
    """Weight dtypes that have an integer kernel, of each operator type and approach of the capability.

    Args:
        target: whose operator types.
        has_kernel: whether an operator of a type runs in integers with a configuration.
    """

    def runs(op_type: str, approach: Any, dtype: str) -> bool:
        weights = [TensorConfig(dtype, scheme, "per_channel", "minmax") for scheme in SCHEMES]
        integers = itertools.product(("uint8", "int8"), SCHEMES)
        inputs = [TensorConfig(dtype, scheme, "per_tensor", "minmax") for dtype, scheme in integers]
        pairs = itertools.product(weights, [FP32_TENSOR] if approach == "weight_only" else inputs)
        return any(has_kernel(op_type, OpConfig(weight, each, approach)) for weight, each in pairs)

    def cell(op_type: str, approach: str) -> str:
        if all(option.approach != approach for option in target.options()[op_type]):
            return "-"
        return widths([dtype for dtype in INTEGER_DTYPES if runs(op_type, approach, dtype)])

    quantized = [op_type for op_type, options in target.options().items() if options[0].is_quantized]
    return merged([target.extension, each, *(cell(each, approach) for approach in APPROACHES)] for each in quantized)


def widths(dtypes: Sequence[str]) -> str:
    """`int4 to int8, uint8`: integer dtypes, neighbouring widths together."""
    runs: list[list[str]] = []
    for sign, bits in itertools.product(("int", "uint"), range(1, 9)):
        if f"{sign}{bits}" in dtypes:
            if f"{sign}{bits - 1}" not in dtypes:
                runs.append([])
            runs[-1].append(f"{sign}{bits}")
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs) or "-"


def abilities(tuners: Sequence[Tuner]) -> str:
    """The optional methods of an adaptor, and which class has them."""
    public = {name for name, each in vars(Adaptor).items() if inspect.isfunction(each) and not name.startswith("_")}
    missing = public - Adaptor.__abstractmethods__ - set(itertools.chain.from_iterable(ABILITIES))
    if missing:
        raise ValueError(f"ABILITIES: {sorted(missing)} of Adaptor are not there.")
    rows = [
        [gain, code(methods), *(yes(all(offers(each.adaptor, method) for method in methods)) for each in tuners)]
        for methods, gain in ABILITIES.items()
    ]
    return table(["what it brings", "methods of the adaptor", *(each.name for each in tuners)], rows)


# The page


def tables() -> dict[str, str]:
    """Every table by its name in the page.

    Raises:
        MissingDependencyError: a framework is not installed.
    """
    from inc_autotune import ort_ext, tf_ext, torch_ext
    from inc_autotune.ort_ext.adaptor import OrtAdaptor
    from inc_autotune.ort_ext.operators.availability import missing_kernel
    from inc_autotune.ort_ext.target.providers import BACKENDS
    from inc_autotune.ort_ext.target.settings import FORM_NAMES
    from inc_autotune.ort_ext.target.switches import RECIPE_NAMES
    from inc_autotune.tf_ext.adaptor import CAPABILITY_FOLDER, TensorFlowAdaptor
    from inc_autotune.tf_ext.measurement.kernel_trial import has_kernel
    from inc_autotune.tf_ext.target import SWITCHES
    from inc_autotune.torch_ext.adaptor import TorchAdaptor
    from inc_autotune.torch_ext.backends import INTEGER_SUMS_RECIPE
    from inc_autotune.torch_ext.ipex.adaptor import CAPABILITIES, IpexAdaptor
    from inc_autotune.torch_ext.modules.availability import simulation_reason

    modules = {"PyTorch": torch_ext, "ONNX Runtime": ort_ext, "TensorFlow": tf_ext}
    torch_target = Target("PyTorch", "`default`", TorchAdaptor.default_capability, "stock PyTorch, CPU")
    ipex = [
        Target("PyTorch", f"`ipex`, device `{device}`", path, f"Intel Extension for PyTorch, {device.upper()}")
        for device, path in CAPABILITIES.items()
    ]
    ort = [
        Target(
            "ONNX Runtime", f"`{each.name}`", each.capability, f"`{each.provider}`", FORM_NAMES[: 1 + each.contrib_form]
        )
        for each in BACKENDS.values()
    ]
    tf = [
        Target("TensorFlow", "`default`", CAPABILITY_FOLDER / "tensorflow.yaml", "stock TensorFlow, CPU"),
        Target("TensorFlow", "`itex`", CAPABILITY_FOLDER / "itex.yaml", "Intel Extension for TensorFlow"),
    ]
    tuners = [
        Tuner("PyTorch", TorchAdaptor, [torch_target], recipes(TorchAdaptor, [INTEGER_SUMS_RECIPE])),
        Tuner("PyTorch, `ipex`", IpexAdaptor, ipex, recipes(IpexAdaptor)),
        Tuner("ONNX Runtime", OrtAdaptor, ort, recipes(OrtAdaptor, RECIPE_NAMES)),
        Tuner("TensorFlow", TensorFlowAdaptor, tf, recipes(TensorFlowAdaptor, SWITCHES)),
    ]
    targets = [target for each in tuners for target in each.targets]
    kernel_rows = [
        *kernels(torch_target, lambda op_type, config: simulation_reason(op_type, config) is None),
        *kernels(ort[0], lambda op_type, config: missing_kernel(op_type, config) is None),
        *kernels(tf[0], has_kernel),
    ]
    return {
        "verbs": verbs(modules),
        "arguments": autotune_arguments(modules),
        "values": argument_values(tuners),
        "backends": backends(targets),
        **{f"operators of {name}": operators([each for each in targets if each.extension == name]) for name in modules},
        "calibration": calibration(targets),
        "kernels": table(["extension", "operator types", *APPROACHES], kernel_rows),
        "abilities": abilities(tuners),
    }


def with_tables(page: str, make: Callable[[], Mapping[str, str]] = tables) -> str:
    """A page with its tables as the code says.

    Args:
        page: Markdown with a place for every table and for no other.
        make: makes the tables, by name.
    """
    made = make()
    places = re.findall(PLACE, page, re.DOTALL)
    if sorted(name for name, _ in places) != sorted(made):
        raise ValueError(f"places for {[name for name, _ in places]}, tables {list(made)}.")
    return re.sub(
        PLACE, lambda found: f"<!-- {found[1]} -->\n\n{made[found[1]]}\n\n<!-- /{found[1]} -->", page, flags=re.DOTALL
    )


def bring_up_to_date(path: Path, make: Callable[[], Mapping[str, str]], description: str | None) -> int:
    """What a script that makes a page does by its command line: write the tables of the page, or compare them.

    Args:
        path: of the page; the script has its name.
        make: makes the tables, by name.
        description: of the script.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    page = path.read_text(encoding="utf-8")
    try:
        text = with_tables(page, make)
    except MissingDependencyError as error:
        print(f"{path.name} was not compared: {error}", file=sys.stderr)
        return NOTHING_COMPARED
    if options.check and text != page:
        print(f"{path.name} is not what the code says. Run: python docs/{path.stem}.py", file=sys.stderr)
        return 1
    if not options.check:
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(bring_up_to_date(PAGE, tables, __doc__))
