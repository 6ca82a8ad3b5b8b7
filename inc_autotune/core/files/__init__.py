"""Writing files and folders so that a crash, a full disk or another writer leaves the old content or the new one.

Knows nothing but the errors.
"""

from inc_autotune.core.files.array_file import Arrays, read_arrays, write_arrays
from inc_autotune.core.files.folder import replace_folder
from inc_autotune.core.files.lock import locked
from inc_autotune.core.files.reading import read_bytes, read_settled
from inc_autotune.core.files.temporary import temporary_name
from inc_autotune.core.files.writing import (
    Content,
    digest_of,
    put,
    settled,
    sync_folder,
    write_file,
    write_files,
    write_temporary,
    writing,
)

__all__ = [
    "Arrays",
    "Content",
    "digest_of",
    "locked",
    "put",
    "read_arrays",
    "read_bytes",
    "read_settled",
    "replace_folder",
    "settled",
    "sync_folder",
    "temporary_name",
    "write_arrays",
    "write_file",
    "write_files",
    "write_temporary",
    "writing",
]
