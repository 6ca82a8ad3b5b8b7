"""The command `inc-autotune`: the library for a shell, on files.

Imports the extensions, each only when a model of its framework is given, and nothing imports it.
"""

import sys

from inc_autotune.command_line.errors import INTERRUPTED
from inc_autotune.core.errors import MissingDependencyError
from inc_autotune.core.optional import require


def main() -> None:
    """Run the program; exits with its code."""
    try:
        require("typer", extra="cli")
    except MissingDependencyError as error:
        sys.exit(f"error: {error}")
    try:
        from inc_autotune.command_line import application

        application.main()
    except KeyboardInterrupt:  # while modules are imported; commands have words of their own
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
