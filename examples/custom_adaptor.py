"""A new framework needs two methods. Here it is a network of NumPy layers, some of which can be had with 4 bits."""

from functools import partial

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arguments import validate_arguments
from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.quantization import fake_quantize, quantization_parameters, weight_parameters
from inc_autotune.core.tuner import tune
from inc_autotune.testing import Dense, NumpyModel

WEIGHT = TensorConfig("int4", scheme="sym", granularity="per_channel", algorithm="minmax")
INT4 = OpConfig(WEIGHT, TensorConfig("uint4", scheme="asym", granularity="per_tensor", algorithm="minmax"), "static")


class NumpyInt4Adaptor(Adaptor):
    def query_fw_capability(self, model):
        options = [INT4.to_dict(), FP32.to_dict()]
        return {
            "opwise": {(layer.name, "Dense"): options for layer in model.layers},
            "optypewise": {"Dense": options[0]},
        }

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        layers = {layer.name: layer for layer in model.layers}
        if unknown := [name for name, _ in tune_cfg["op"] if name not in layers]:
            raise ArgumentError(f"tune_cfg['op']: no layer named {unknown[0]!r}. Layers: {', '.join(layers)}.")
        if not dataloader:
            raise DataError("calib_dataloader is empty. Give at least one batch.")
        inputs = model.inputs_of_layers(np.concatenate(dataloader)[: tune_cfg["calib_iteration"]])
        chosen = [name for (name, _), config in tune_cfg["op"].items() if OpConfig.from_dict(config).is_quantized]
        return model.with_layers([quantized(layers[name], inputs[name]) for name in chosen])


def quantized(layer: Dense, inputs: np.ndarray) -> Dense:
    weight = fake_quantize(layer.weight, weight_parameters(layer.weight, WEIGHT), axis=0)
    parameters = quantization_parameters(inputs.min(), inputs.max(), dtype="uint4", scheme="asym")
    return Dense(layer.name, weight, layer.bias, partial(fake_quantize, parameters=parameters))


x, y = load_digits(return_X_y=True)
network = MLPClassifier((128, 64), max_iter=500, random_state=0).fit(x[:1300], y[:1300])
weights = zip("abc", network.coefs_, network.intercepts_, strict=True)
model = NumpyModel(tuple(Dense(name, weight.T, bias) for name, weight, bias in weights))


def accuracy(candidate: NumpyModel) -> float:
    return (candidate(x[1300:]).argmax(1) == y[1300:]).mean()


arguments = validate_arguments(strategies=["auto"], backends=["default"], accuracy_criterion={"relative": 0.01})
print(tune(NumpyInt4Adaptor(), model, [x[:100]], accuracy, arguments).result)
