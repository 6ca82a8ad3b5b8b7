"""Runs SavedModels in an environment of their own, in turn, and prints the CPU seconds of each as JSON.

    python itex_program.py INPUTS REPEAT FOLDER...

INPUTS is an .npy file. The outputs lie beside each model, as FOLDER.npy. Knows nothing of inc_autotune, which needs a
newer TensorFlow.
"""

import json
import sys
import time

import numpy as np
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
inputs, repeat, folders = tf.constant(np.load(sys.argv[1])), int(sys.argv[2]), sys.argv[3:]
models = {folder: tf.saved_model.load(folder) for folder in folders}
calls = {folder: model.signatures["serving_default"] for folder, model in models.items()}
seconds = dict.fromkeys(folders, float("inf"))
for index in range(repeat + 1):
    for folder, call in calls.items():
        (name,) = call.structured_input_signature[1]
        start = time.process_time()
        (output,) = call(**{name: inputs}).values()
        if index:  # the first call prepares the graph
            seconds[folder] = min(seconds[folder], time.process_time() - start)
        else:
            np.save(folder + ".npy", output.numpy())
print(json.dumps(seconds))
