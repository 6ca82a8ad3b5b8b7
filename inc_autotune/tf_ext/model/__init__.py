"""From what the user passes to a runnable model, and back to disk.

Imports target and graph.
"""

from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.check import all_nodes
from inc_autotune.tf_ext.model.freezing import with_constants
from inc_autotune.tf_ext.model.keras_model import KERAS_SUFFIXES, is_keras_model, read_keras_file
from inc_autotune.tf_ext.model.paths import check_file, check_path
from inc_autotune.tf_ext.model.saved_model import EXTRA, check_replaceable, write_saved_model
from inc_autotune.tf_ext.model.signatures import SignatureCallable, SignatureModel
from inc_autotune.tf_ext.model.source import VALID, Signatures, SourceModel, load_source
from inc_autotune.tf_ext.model.structure_check import check_saved_model

__all__ = [
    "EXTRA",
    "KERAS_SUFFIXES",
    "VALID",
    "Candidate",
    "SignatureCallable",
    "SignatureModel",
    "Signatures",
    "SourceModel",
    "all_nodes",
    "check_file",
    "check_path",
    "check_replaceable",
    "check_saved_model",
    "is_keras_model",
    "load_source",
    "read_keras_file",
    "with_constants",
    "write_saved_model",
]
