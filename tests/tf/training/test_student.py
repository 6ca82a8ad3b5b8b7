"""A student computes what its integer form will, is trained by Keras's own means, and is saved by them."""

import keras
import numpy as np
import pytest
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.op_config import OpConfig, TensorConfig
from tests.tf.training.students import as_arrays, decibels, student

LOOKUP = OpConfig(TensorConfig("int8", "sym", "per_channel", "minmax"), TensorConfig("fp32"), "weight_only")


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def normalized(x, **options):
    return layers.ReLU(**options)(layers.BatchNormalization()(x))


def image_model():
    """Every kind of convolution on images, a BatchNorm behind most, and a residual sum."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = normalized(layers.Conv2D(8, 3, padding="same", use_bias=False)(x))
    inner = normalized(layers.SeparableConv2D(8, 3, padding="same")(x))
    inner = layers.BatchNormalization()(layers.Conv2D(8, 1, use_bias=False)(inner))
    x = layers.ReLU()(layers.add([x, inner]))
    x = normalized(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x), max_value=6.0)
    x = layers.Conv2D(16, 1, activation="relu")(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", groups=2, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def sequence_model():
    """Layers of sequences: attention with its own EinsumDense layers, convolutions, a pair of outputs."""
    x = inputs = keras.Input((12, 8), name="sequence")
    x = layers.Conv1D(16, 3, padding="same", activation="relu")(x)
    x = layers.add([x, layers.MultiHeadAttention(2, 8)(x, x)])
    x = layers.LayerNormalization()(x)
    x = layers.Dense(32, activation="gelu")(x)
    x = layers.SeparableConv1D(16, 3, padding="same", activation="relu")(x)
    pooled = layers.GlobalAveragePooling1D()(x)
    outputs = {"class": layers.Dense(3, name="class")(pooled), "size": layers.Dense(1, name="size")(pooled)}
    return keras.Model(inputs, outputs)


def volume_model():
    x = inputs = keras.Input((4, 6, 6, 2), name="volume")
    x = layers.Conv3D(8, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling3D()(x)))


def shared_model():
    """One layer on two tensors, in a model that is a layer of another."""
    inside = keras.Sequential(
        [keras.Input((16,)), layers.Dense(16, activation="relu"), layers.Dense(16)], name="inside"
    )
    one, other = keras.Input((16,), name="one"), keras.Input((16,), name="other")
    return keras.Model([one, other], layers.Dense(4)(layers.add([inside(one), inside(other)])))


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A layer of the user's own with layers inside."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.feed_forward = [layers.Dense(2 * width, activation="gelu"), layers.Dense(width)]
        self.norm = layers.LayerNormalization()

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.feed_forward[0].build(shape)
        self.feed_forward[1].build((*shape[:-1], 2 * self.width))

    def call(self, x):
        x = self.norm(x + self.attention(x, x))
        return x + self.feed_forward[1](self.feed_forward[0](x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def block_model():
    x = inputs = keras.Input((6,), dtype="int32", name="tokens")
    x = Block(16)(layers.Embedding(20, 16)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


MODELS = {
    "images": (image_model, random(32, 8, 8, 3), 7),
    "sequences": (sequence_model, random(32, 12, 8), 9),
    "volumes": (volume_model, random(32, 4, 6, 6, 2), 2),
    "shared": (shared_model, {"one": random(32, 16), "other": random(32, 16, seed=1)}, 3),
    "blocks": (block_model, np.random.default_rng(0).integers(0, 20, (32, 6)).astype(np.int32), 8),
}


def built(name):
    make, data, _ = MODELS[name]
    keras.utils.set_random_seed(0)
    model = make()
    generator = np.random.default_rng(0)
    for each in model.variables:  # as if trained: BatchNorm does something, in both directions
        if each.name in ("gamma", "moving_variance"):
            sign = generator.choice([-1, 1], each.shape) if each.name == "gamma" else 1
            each.assign(sign * generator.uniform(0.5, 2, each.shape))
        elif each.name in ("beta", "moving_mean", "bias"):
            each.assign(generator.normal(size=each.shape) / 4)
    return model, data


def called(model, data):
    return model(list(data.values()) if isinstance(data, dict) else data)


def run_int8(converted, data):
    return converted(**data) if isinstance(data, dict) else converted(data)


def quantized_lookup(kind, config):
    return LOOKUP if kind == "GatherV2" else config


def train(model, data, eagerly=False):
    """A few steps towards another output."""
    inputs = list(data.values()) if isinstance(data, dict) else data
    outputs = model(inputs)
    targets = {key: value + 0.5 for key, value in outputs.items()} if isinstance(outputs, dict) else outputs + 0.5
    model.compile(keras.optimizers.Adam(2e-2), "mse", run_eagerly=eagerly)
    model.fit(inputs, targets, batch_size=32, epochs=3, verbose=0)


@pytest.mark.parametrize("name", MODELS)
def test_converted_model_gives_what_the_trained_student_gives(name, tmp_path):
    model, data = built(name)
    before = [each.copy() for each in model.get_weights()]
    made = student(model, data, quantized_lookup)
    assert len(made.operators) == MODELS[name][2], made.untrained
    rounded = called(made, data)
    assert decibels(called(model, data), rounded) > 15

    # Tracing a step of the larger models takes ten times as long as the three steps.
    train(made, data, eagerly=name in ("images", "sequences", "blocks"))
    trained = called(made, data)
    assert decibels(rounded, trained) < 25  # it has moved
    int8 = run_int8(tf_ext.convert(made), data)
    assert decibels(trained, int8) > 30
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

    made.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    for one, other in zip(as_arrays(trained), as_arrays(called(loaded, data)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [each.limits for each in loaded.activations] == [each.limits for each in made.activations]
