"""Small ONNX models with fixed weights, and data for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

WIDTH = 32
HEADS = 4
VOCABULARY = 50
CLASSES = 5

Array = NDArray[Any]


class GraphWriter:
    """Collects the nodes and seeded weights of one graph."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._generator = np.random.default_rng(seed)

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def random(self, name: str, *shape: int, scale: float | None = None) -> str:
        scale = 1 / np.sqrt(shape[0]) if scale is None else scale
        return self.constant(name, self._generator.normal(size=shape) * scale)

    def add(self, op_type: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        """Append a node; its output is named after it."""
        name = name or f"{op_type.lower()}_{len(self.nodes)}"
        results = [f"{name}.out{index or ''}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, results, name, **attributes))
        return results[0]

    def linear(self, x: str, name: str, features_in: int, features_out: int) -> str:
        product = self.add("MatMul", x, self.random(f"{name}.weight", features_in, features_out), name=name)
        return self.add("Add", product, self.random(f"{name}.bias", features_out, scale=0.1), name=f"{name}.add")

    def norm(self, x: str, name: str, width: int, gain: Array | None = None) -> str:
        weight = self.constant(f"{name}.weight", np.ones(width) if gain is None else gain)
        bias = self.random(f"{name}.bias", width, scale=0.1)
        return self.add("LayerNormalization", x, weight, bias, name=name, axis=-1, epsilon=1e-5)

    def gelu(self, x: str, name: str) -> str:
        """As torch.onnx.export(dynamo=True) writes it: x * (0.5 * (1 + erf(x / sqrt(2))))."""
        ratio = self.add("Div", x, self.constant(f"{name}.root", np.sqrt(2)), name=f"{name}.div")
        erf = self.add("Erf", ratio, name=f"{name}.erf")
        one = self.add("Add", erf, self.constant(f"{name}.one", 1), name=f"{name}.plus")
        half = self.add("Mul", self.constant(f"{name}.half", 0.5), one, name=f"{name}.times")
        return self.add("Mul", x, half, name=name)

    def model(self, inputs: dict[str, tuple[int, list[Any]]], rank: int, opset: int = 18) -> ModelProto:
        """The model whose output `y` is that of the last node; inputs are name -> (data type, shape)."""
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *[None] * (rank - 1)])],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        checker.check_model(model)
        return model


def linear_chain(*, opset: int = 18, gemm: bool = False) -> ModelProto:
    """`x` [batch, 32] through fc1, Relu and fc2 to `y` [batch, 5]; as MatMul and Add, or as Gemm with transB=1."""
    graph = GraphWriter()
    x = "x"
    for name, features in (("fc1", 64), ("fc2", CLASSES)):
        features_in = WIDTH if name == "fc1" else 64
        if gemm:
            weight = graph.random(f"{name}.weight", features, features_in, scale=features_in**-0.5)
            x = graph.add("Gemm", x, weight, graph.random(f"{name}.bias", features, scale=0.1), name=name, transB=1)
        else:
            x = graph.linear(x, name, features_in, features)
        x = graph.add("Relu", x, name="relu") if name == "fc1" else x
    return graph.model({"x": (TensorProto.FLOAT, ["batch", WIDTH])}, 2, opset)


def outlier_gain(factor: float) -> Array:
    """Weights of a norm that make two channels `factor` times as large as the others."""
    gain = np.ones(WIDTH)
    gain[[3, 17]] = factor
    return gain


def transformer_block(*, pre_norm: bool = True, outliers: float = 1.0, layers: int = 1) -> ModelProto:
    """`x` [batch, sequence, 32] through attention and a feed-forward net with GELU to `y` of the same shape.

    Args:
        pre_norm: norms stand before attention and feed-forward, and only these read them; else after the residual
            addition, and the next residual reads them too.
        outliers: two channels of each norm are so many times as large as the others.
    """
    graph = GraphWriter()
    gain = outlier_gain(outliers)
    x = "x" if pre_norm else graph.norm("x", "norm0", WIDTH, gain)
    for layer in range(layers):
        prefix = f"layer{layer}."
        read = graph.norm(x, f"{prefix}norm1", WIDTH, gain) if pre_norm else x
        x = graph.add("Add", x, attention(graph, read, f"{prefix}attention."), name=f"{prefix}residual1")
        x = x if pre_norm else graph.norm(x, f"{prefix}norm1", WIDTH, gain)
        read = graph.norm(x, f"{prefix}norm2", WIDTH, gain) if pre_norm else x
        hidden = graph.gelu(graph.linear(read, f"{prefix}up", WIDTH, 2 * WIDTH), f"{prefix}gelu")
        hidden = graph.linear(hidden, f"{prefix}down", 2 * WIDTH, WIDTH)
        x = graph.add("Add", x, hidden, name=f"{prefix}residual2")
        x = x if pre_norm else graph.norm(x, f"{prefix}norm2", WIDTH, gain)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", "sequence", WIDTH])}, 3)


def attention(graph: GraphWriter, x: str, prefix: str) -> str:
    """Multi-head attention over [batch, sequence, 32] without a mask."""
    if "heads" not in (each.name for each in graph.initializers):
        graph.constant("heads", [0, 0, HEADS, WIDTH // HEADS], np.int64)
        graph.constant("merged", [0, 0, WIDTH], np.int64)
        graph.constant("scale", (WIDTH / HEADS) ** -0.5)
    parts = {}
    for part in ("query", "key", "value"):
        split = graph.add(
            "Reshape", graph.linear(x, prefix + part, WIDTH, WIDTH), "heads", name=f"{prefix}{part}.split"
        )
        order = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
        parts[part] = graph.add("Transpose", split, name=f"{prefix}{part}.transpose", perm=order)
    scores = graph.add("MatMul", parts["query"], parts["key"], name=f"{prefix}scores")
    weights = graph.add("Softmax", graph.add("Mul", scores, "scale", name=f"{prefix}scaled"), name=f"{prefix}softmax")
    mixed = graph.add("MatMul", weights, parts["value"], name=f"{prefix}mixed")
    back = graph.add("Transpose", mixed, name=f"{prefix}back", perm=[0, 2, 1, 3])
    merged = graph.add("Reshape", back, "merged", name=f"{prefix}merge")
    return graph.linear(merged, f"{prefix}output", WIDTH, WIDTH)


def conv_net() -> ModelProto:
    """`x` [batch, 3, 8, 8] through convolutions, a residual Add, pooling and a Gemm to `y` [batch, 5]."""
    graph = GraphWriter()

    def convolution(x: str, name: str, channels_in: int, channels: int) -> str:
        weight = graph.random(f"{name}.weight", channels, channels_in, 3, 3, scale=(9 * channels_in) ** -0.5)
        bias = graph.random(f"{name}.bias", channels, scale=0.1)
        return graph.add("Conv", x, weight, bias, name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    stem = graph.add("Relu", convolution("x", "stem", 3, 16), name="relu0")
    first = graph.add("Relu", convolution(stem, "conv1", 16, 16), name="relu1")
    added = graph.add("Add", convolution(first, "conv2", 16, 16), stem, name="residual")
    pooled = graph.add(
        "MaxPool", graph.add("Relu", added, name="relu2"), name="pool", kernel_shape=[2, 2], strides=[2, 2]
    )
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", pooled, name="average"), name="flat")
    weight = graph.random("head.weight", CLASSES, 16, scale=0.25)
    graph.add("Gemm", flat, weight, graph.random("head.bias", CLASSES, scale=0.1), name="head", transB=1)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 3, 8, 8])}, 2)


def embedding_classifier() -> ModelProto:
    """`input_ids`, `attention_mask` int64 [batch, sequence]: Gather, mean over real tokens, fc1, Relu, fc2 to `y`."""
    graph = GraphWriter()
    words = graph.add("Gather", graph.random("words.weight", VOCABULARY, WIDTH, scale=1.0), "input_ids", name="words")
    mask = graph.add("Cast", "attention_mask", name="mask", to=TensorProto.FLOAT)
    last, middle = graph.constant("last", [-1], np.int64), graph.constant("middle", [1], np.int64)
    kept = graph.add("Mul", words, graph.add("Unsqueeze", mask, last, name="column"), name="kept")
    total = graph.add("ReduceSum", kept, middle, name="total", keepdims=0)
    count = graph.add("ReduceSum", mask, middle, name="count", keepdims=1)
    hidden = graph.linear(graph.add("Div", total, count, name="mean"), "fc1", WIDTH, 64)
    graph.linear(graph.add("Relu", hidden, name="relu"), "fc2", 64, CLASSES)
    tokens = (TensorProto.INT64, ["batch", "sequence"])
    return graph.model({"input_ids": tokens, "attention_mask": tokens}, 2)


def vectors(batches: int = 8, size: int = 4, *shape: int, seed: int = 1) -> list[Array]:
    """Normal float32 batches [size, *shape]; of shape [size, 32] by default."""
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(size, *(shape or (WIDTH,)))).astype(np.float32) for _ in range(batches)]


def sentences(batches: int = 8, size: int = 4, seed: int = 1) -> list[dict[str, Array]]:
    """Padded token batches of different lengths for `embedding_classifier`."""
    generator = np.random.default_rng(seed)
    result = []
    for _ in range(batches):
        lengths = generator.integers(3, 12, size)
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        result.append({"input_ids": generator.integers(1, VOCABULARY, mask.shape) * mask, "attention_mask": mask})
    return result
