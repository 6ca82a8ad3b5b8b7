"""Small convolutional nets in ONNX with random weights, with what exporters other than PyTorch's leave in them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 28
CLASSES = 10


class NetWriter:
    """Collects nodes; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._random = np.random.default_rng(0)

    def add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def normal(self, *shape: int, scale: float) -> str:
        return self.constant(self._random.normal(size=shape) * scale)

    def conv(
        self, x: str, before: int, after: int, kernel: int = 3, *, group: int = 1, stride: int = 1, bias: bool = True
    ) -> str:
        fan_in = before // group * kernel**2
        operands = [self.normal(after, before // group, kernel, kernel, scale=1.4 * fan_in**-0.5)]
        operands += [self.normal(after, scale=0.1)] if bias else []
        attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": group}
        return self.add("Conv", x, *operands, **attributes)

    def batch_norm(self, x: str, channels: int) -> str:
        gain, variance = (self.constant(self._random.uniform(0.5, 1.5, channels)) for _ in range(2))
        shift, mean = (self.normal(channels, scale=0.1) for _ in range(2))
        return self.add("BatchNormalization", x, gain, shift, mean, variance)

    def relu6(self, x: str) -> str:
        return self.add("Clip", x, self.constant(0.0), self.constant(6.0))

    def doubled(self, x: str, before: int, after: int, kernel: int) -> str:
        """A transposed convolution of stride 2."""
        operands = (
            self.normal(before, after, kernel, kernel, scale=2.8 / (before**0.5 * kernel)),
            self.normal(after, scale=0.1),
        )
        attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2 - 1] * 4, "strides": [2, 2]}
        return self.add("ConvTranspose", x, *operands, **attributes)

    def model(self, x: str, channels: int) -> onnx.ModelProto:
        """With an average over the image and a classifier behind `x`."""
        flat = self.add("Flatten", self.add("GlobalAveragePool", x))
        self.add("Gemm", flat, self.normal(channels, CLASSES, scale=channels**-0.5), self.normal(CLASSES, scale=0.1))
        return self.whole(["batch", CLASSES])

    def whole(self, shape: list[str | int]) -> onnx.ModelProto:
        """With the output of the last node, of this shape."""
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def mobilenet(width: int = 32, blocks: int = 8) -> onnx.ModelProto:
    """Inverted residuals with ReLU6 (Sandler et al. 2018)."""
    net = NetWriter()
    x = net.relu6(net.conv("x", 3, width))
    for _ in range(blocks):
        wide = net.relu6(net.conv(x, width, 4 * width, 1))
        wide = net.relu6(net.conv(wide, 4 * width, 4 * width, group=4 * width))
        x = net.add("Add", x, net.conv(wide, 4 * width, width, 1))
    return net.model(x, width)


def plain(width: int = 64, layers: int = 12) -> onnx.ModelProto:
    """Convolution, batch normalization and ReLU6, again and again."""
    net, x, before = NetWriter(), "x", 3
    for _ in range(layers):
        x = net.relu6(net.batch_norm(net.conv(x, before, width, bias=False), width))
        before = width
    return net.model(x, width)


def silu(width: int = 48, blocks: int = 5) -> onnx.ModelProto:
    """Residual convolutions with SiLU, as in the backbone of a YOLO."""
    net = NetWriter()

    def activated(x: str) -> str:
        return net.add("Mul", x, net.add("Sigmoid", x))

    x = activated(net.conv("x", 3, width))
    for _ in range(blocks):
        y = activated(net.conv(activated(net.conv(x, width, width, 1)), width, width))
        x = net.add("Add", x, y)
    return net.model(x, width)


def shufflenet(width: int = 64, blocks: int = 5) -> onnx.ModelProto:
    """Convolutions of groups with shuffled channels between them (Zhang et al. 2018)."""
    net = NetWriter()
    apart = net.constant([0, 2, width // 2, SIZE, SIZE], np.int64)
    joined = net.constant([0, width, SIZE, SIZE], np.int64)
    x = net.add("Relu", net.conv("x", 3, width))
    for _ in range(blocks):
        y = net.add("Reshape", net.add("Relu", net.conv(x, width, width, 1, group=2)), apart)
        y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3, 4]), joined)
        y = net.conv(net.conv(y, width, width, group=width), width, width, 1, group=2)
        x = net.add("Relu", net.add("Add", x, y))
    return net.model(x, width)


def unet(kernel: int = 2, width: int = 32) -> onnx.ModelProto:
    """Down twice and up again, with what was there on the way down beside it (Ronneberger et al. 2015)."""
    net = NetWriter()
    x, before, kept = "x", 3, []
    for level in range(3):
        after = width << level
        x = net.add("Relu", net.conv(net.add("Relu", net.conv(x, before, after)), after, after))
        if level < 2:
            kept.append((x, after))
            x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        before = after
    for skipped, after in reversed(kept):
        x = net.add("Concat", net.doubled(x, before, after, kernel), skipped, axis=1)
        x = net.add("Relu", net.conv(net.add("Relu", net.conv(x, 2 * after, after)), after, after))
        before = after
    net.conv(x, before, CLASSES, 1)
    return net.whole(["batch", CLASSES, SIZE, SIZE])


def unet_overlapping() -> onnx.ModelProto:
    """With transposed convolutions of 4 x 4."""
    return unet(kernel=4)


MODELS = {
    "MobileNetV2-like": mobilenet,
    "Conv, BatchNorm, ReLU6": plain,
    "ShuffleNet-like": shufflenet,
    "Convolutions with SiLU": silu,
}
MODELS |= {"UNet, upsampling 2 x 2": unet, "UNet, upsampling 4 x 4": unet_overlapping}
