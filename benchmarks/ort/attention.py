"""The fused Attention of onnxruntime's optimizer in int8: as a product and a MultiHeadAttention, and as QAttention.

    python benchmarks/ort/attention.py

One operator of random weights and a projection behind it, as in BERT. `int8` is what the library writes, static and
dynamic; `QAttention` has the same integers and scales, one for each column of its weights, in onnxruntime's own one.
All forms leave the products inside attention in float32.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common
from inc_autotune import ort_ext

CONTRIB = "com.microsoft"
COLUMNS = ("hidden, heads", "input", "form", "ms", "times faster", "SQNR dB")
SHAPES = [(384, 12, 1, 32), (384, 12, 8, 128), (768, 12, 1, 32), (768, 12, 1, 128), (768, 12, 8, 128)]


def attention(hidden: int, heads: int) -> ModelProto:
    """`x` [batch, sequence, hidden] through Attention and a linear layer to `y`."""
    generator = np.random.default_rng(0)
    values = {
        "weight": generator.normal(size=(hidden, 3 * hidden)) * hidden**-0.5,
        "bias": generator.normal(size=3 * hidden) * 0.1,
        "dense": generator.normal(size=(hidden, hidden)) * hidden**-0.5,
    }
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    nodes = [
        helper.make_node("Attention", ["x", "weight", "bias"], ["a"], "attention", domain=CONTRIB, num_heads=heads),
        helper.make_node("MatMul", ["a", "dense"], ["y"], "dense"),
    ]
    return proto(nodes, weights, hidden)


def proto(nodes: list[onnx.NodeProto], weights: list[TensorProto], hidden: int) -> ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", hidden]) for name in "xy")
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(
        helper.make_graph(nodes, "attention", [x], [y], weights), opset_imports=imports, ir_version=9
    )


def quantized_attention(model: ModelProto, tuned: ModelProto, limit: tuple[float, float] | None) -> ModelProto:
    """The product and the MultiHeadAttention of a tuned model in QAttention's place, the rest as it is there.

    Args:
        model: in fp32.
        tuned: in the form "cpu".
        limit: smallest and largest value of the input; None: quantized when the model runs.
    """
    weight = next(numpy_helper.to_array(each) for each in model.graph.initializer if each.name == "weight")
    scale = (np.abs(weight).max(0) / 127).astype(np.float32)
    added = {
        "q.weight": np.clip(np.round(weight / scale), -127, 127).astype(np.int8),
        "q.scale": scale,
        "q.zero": np.zeros(weight.shape[1], np.int8),
    }
    node = next(each for each in model.graph.node if each.op_type == "Attention")
    inputs = ["x.q", "q.weight", "bias", "x.scale", "q.scale", "", "x.zero", "q.zero"]
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["x.q", "x.scale", "x.zero"], "x.quantize")]
    if limit is not None:
        step = (limit[1] - limit[0]) / 255
        added |= {"x.scale": np.float32(step), "x.zero": np.uint8(round(-limit[0] / step))}
        nodes = [helper.make_node("QuantizeLinear", ["x", "x.scale", "x.zero"], ["x.q"], "x.quantize")]
    heads = helper.get_node_attr_value(node, "num_heads")
    nodes.append(helper.make_node("QAttention", inputs, ["a.q"], "attention", domain=CONTRIB, num_heads=heads))
    fused = next(each for each in tuned.graph.node if each.op_type == "MultiHeadAttention")
    before = {*_made_by(tuned, fused.input), fused.name}
    kept = [each for each in tuned.graph.node if each.name not in before]
    result = ModelProto()
    result.CopyFrom(tuned)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    for each in kept:
        new = onnx.NodeProto()
        new.CopyFrom(each)
        new.input[:] = ["a.q" if name == fused.output[0] else name for name in each.input]
        result.graph.node.append(new)
    bias = next(each for each in model.graph.initializer if each.name == "bias")
    taken = {each.name for each in result.graph.initializer}
    result.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in added.items())
    result.graph.initializer.extend([bias] if "bias" not in taken else [])
    return result


def _made_by(model: ModelProto, names: Any) -> set[str]:
    """Names of the nodes that what is named is computed by."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found: set[str] = set()
    waiting = [name for name in names if name in producers]
    while waiting:
        node = producers[waiting.pop()]
        if node.name not in found:
            found.add(node.name)
            waiting += [name for name in node.input if name in producers]
    return found


def rows_of(hidden: int, heads: int, batch: int, length: int, options: Any) -> list[list[Any]]:
    feeds = [
        {"x": np.random.default_rng(seed).normal(size=(batch, length, hidden)).astype(np.float32)} for seed in range(5)
    ]
    model = attention(hidden, heads)
    forms = {"fp32": model}
    values = np.concatenate([feed["x"].ravel() for feed in feeds[:-1]])
    for approach in ("static", "dynamic"):
        tuned = ort_ext.autotune(
            model,
            feeds[:-1],
            approach=approach,
            recipes={"smooth_quant": False},
            op_type_dict={"MatMul": {"weight": {"dtype": ["int8"]}}},
            session_options=common.options_of(options.threads),
            progress=False,
        )
        forms[f"int8, {approach}"] = ort_ext.convert(tuned, "cpu")
        limit = (float(values.min()), float(values.max())) if approach == "static" else None
        forms[f"QAttention, {approach}"] = quantized_attention(model, forms[f"int8, {approach}"], limit)
    paths = {form: options.exports / f"{form}.onnx" for form in forms}
    for form, path in paths.items():
        onnx.save(forms[form], path)
    sessions = [common.file_session(path, options.threads) for path in paths.values()]
    seconds = common.session_seconds(sessions, feeds[-1], options)
    expected = sessions[0].run(None, feeds[-1])[0]
    rows = []
    for form, session, taken in zip(paths, sessions, seconds, strict=True):
        noise = np.square(session.run(None, feeds[-1])[0] - expected).sum()
        ratio = f"{10 * np.log10(np.square(expected).sum() / noise):.1f}" if noise else ""
        rows.append([f"{hidden}, {heads}", f"{batch}x{length}", form, 1e3 * taken, seconds[0] / taken, ratio])
    return rows


def main() -> None:
    options = common.parse(common.parser(__doc__, repeat=7))
    rows = [row for shape in SHAPES for row in rows_of(*shape, options)]
    measuring.print_table(f"onnxruntime {onnxruntime.__version__}, {options.threads} thread", COLUMNS, rows)


if __name__ == "__main__":
    main()
