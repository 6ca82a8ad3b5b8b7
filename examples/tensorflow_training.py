"""Train a Keras CNN to live with weights of two bits, and save it. Takes about half a minute.

Two bits are simulated: TensorFlow has kernels for eight, for which few models need training.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

from inc_autotune import tf_ext

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
keras.utils.set_random_seed(0)
digits = load_digits()  # 1,797 images of 8 x 8 pixels, part of scikit-learn
images, labels = np.float32(digits.images[..., None] / 16), digits.target
train, test = (images[:1300], labels[:1300]), (images[1300:], labels[1300:])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(network, epochs=5):
    network.compile(keras.optimizers.Adam(2e-3), loss)
    network.fit(*train, batch_size=64, epochs=epochs, verbose=0)


def accuracy(network):
    return float((np.asarray(network(test[0])).argmax(-1) == test[1]).mean())


x = inputs = keras.Input((8, 8, 1), name="image")
for channels, stride in ((16, 1), (32, 2)):
    x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
model = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))
fit(model)

weight = {"dtype": ["int2"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
activation = {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
types = ("Conv2D", "MatMul")
two_bits = {
    "capability": {"int2": {"static": {kind: {"weight": weight, "activation": activation} for kind in types}}},
    "op_type_dict": {kind: {"weight": {"dtype": ["int2"]}} for kind in types},
    "progress": False,
}

# A loop of one's own.
student = tf_ext.prepare(model, train[0], **two_bits)
untrained = accuracy(student)
fit(student)
student.save(Path(tempfile.mkdtemp()) / "student.keras")
print(f"fp32 {accuracy(model):.1%}, two bits {untrained:.1%}, trained {accuracy(student):.1%}")
print(f"converted {accuracy(tf_ext.convert(student)):.1%}")

# Or autotune trains, where the goal is missed; with approach="qat" at once.
tuned = tf_ext.autotune(model, train[0], accuracy, train_func=fit, accuracy_criterion={"relative": 0.02}, **two_bits)
print(tuned.tuning_result)
