"""Build a small ONNX text-like encoder, make it INT8 in one call, and compare it with fp32. Takes a few seconds."""

import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from inc_autotune import ort_ext

WIDTH, HIDDEN, BLOCKS = 256, 1024, 4
generator = np.random.default_rng(0)
nodes, weights, x = [], [], "tokens"


def constant(name: str, value: np.ndarray) -> str:
    weights.append(numpy_helper.from_array(value.astype(np.float32), name))
    return name


for index in range(BLOCKS):
    gain = np.where(np.arange(WIDTH) % 64 == index, 30.0, 1.0)  # outlier channels, as large language models have them
    up = generator.normal(size=(WIDTH, HIDDEN)) / 16 / gain[:, None]
    inputs = [x, constant(f"gain{index}", gain), constant(f"shift{index}", np.zeros(WIDTH))]
    nodes.append(helper.make_node("LayerNormalization", inputs, [f"norm{index}"], f"norm{index}"))
    nodes.append(helper.make_node("MatMul", [f"norm{index}", constant(f"up{index}", up)], [f"h{index}"], f"up{index}"))
    nodes.append(helper.make_node("Relu", [f"h{index}"], [f"relu{index}"], f"relu{index}"))
    down = constant(f"down{index}", generator.normal(size=(HIDDEN, WIDTH)) / 32)
    nodes.append(helper.make_node("MatMul", [f"relu{index}", down], [f"d{index}"], f"down{index}"))
    nodes.append(helper.make_node("Add", [x, f"d{index}"], [f"x{index}"], f"add{index}"))
    x = f"x{index}"
shape = ["batch", "length", WIDTH]
tokens, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("tokens", x))
graph = helper.make_graph(nodes, "encoder", [tokens], [output], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

# part: data
calibration = [generator.normal(size=(4, 32, WIDTH)).astype(np.float32) for _ in range(8)]
test = generator.normal(size=(8, 32, WIDTH)).astype(np.float32)
fp32 = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
expected = fp32.run(None, {"tokens": test})[0]


# part: evaluation
def cosine(session: onnxruntime.InferenceSession) -> float:
    actual = session.run(None, {"tokens": test})[0]
    return float((actual * expected).sum() / np.linalg.norm(actual) / np.linalg.norm(expected))


# part: tune
tuned = ort_ext.autotune(model, calibration, cosine, accuracy_criterion={"relative": 0.01}, sampling_sizes=[32])
session = ort_ext.session(tuned, providers=["CPUExecutionProvider"])
# part: compare
print(tuned.tuning_result)
for name, each in (("fp32", fp32), ("int8", session)):
    started = time.perf_counter()
    for _ in range(10):
        each.run(None, {"tokens": test})
    print(f"{name}  cosine {cosine(each):.4f}  {(time.perf_counter() - started) * 100:.1f} ms")
