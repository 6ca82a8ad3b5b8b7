"""Train a small Keras CNN on handwritten digits, make its SavedModel INT8, and compare. Takes about half a minute."""

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

from inc_autotune import tf_ext

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
# part: model
keras.utils.set_random_seed(0)
digits = load_digits()  # 1,797 images of 8 x 8 pixels, part of scikit-learn
images, labels = np.float32(digits.images[..., None] / 16), digits.target
train, test = (images[:1300], labels[:1300]), (images[1300:], labels[1300:])


def convolution(x, channels, stride=1):
    x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


x = inputs = keras.Input((8, 8, 1), name="image")
for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1)):
    x = convolution(x, channels, stride)
x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
model = keras.Model(inputs, layers.Dense(10, name="digit")(x))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss)
model.fit(*train, batch_size=64, epochs=4, verbose=0)


# part: evaluation
def accuracy(candidate):
    return float((candidate(test[0]).numpy().argmax(-1) == test[1]).mean())


def milliseconds(signature, batch):
    times = []
    for _ in range(20):
        started = time.perf_counter()
        signature(image=batch)
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


# part: tune
folder = Path(tempfile.mkdtemp())
model.export(folder / "fp32", verbose=False)

tuned = tf_ext.autotune(
    folder / "fp32",
    tf.data.Dataset.from_tensor_slices(train).batch(20),
    accuracy,
    smoothquant_args={"alpha": "auto"},
    sampling_sizes=[100],
    accuracy_criterion={"relative": 0.01},
)
tf_ext.save(tuned, folder / "int8")

# part: compare
print(tuned.tuning_result)
print("\n      accuracy  ms for 32 images, one thread")
for name in ("fp32", "int8"):
    loaded = tf.saved_model.load(folder / name)  # needs TensorFlow alone
    score = accuracy(loaded.serve)
    print(f"{name}  {score:8.1%}  {milliseconds(loaded.signatures['serving_default'], tf.constant(test[0][:32])):8.2f}")
