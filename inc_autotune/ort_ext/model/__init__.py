"""From what the user passes to a runnable model, and back to disk.

Imports target and graph.
"""

from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.model_file import read_proto
from inc_autotune.ort_ext.model.sessions import (
    Provider,
    SessionOptions,
    check_providers,
    first_provider,
    make_session,
    run_session,
)
from inc_autotune.ort_ext.model.source import BODY_REASON, VALID, SourceModel, load_source
from inc_autotune.ort_ext.model.versions import opset_version
from inc_autotune.ort_ext.model.writing import LARGEST_EMBEDDED, write_model

__all__ = [
    "BODY_REASON",
    "LARGEST_EMBEDDED",
    "VALID",
    "Candidate",
    "Provider",
    "SessionOptions",
    "SourceModel",
    "check_providers",
    "first_provider",
    "load_source",
    "make_session",
    "opset_version",
    "read_proto",
    "run_session",
    "write_model",
]
