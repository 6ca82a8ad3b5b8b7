"""The command `inc-autotune`: the library for a shell, on files.

Imports the extensions, each only when a model of its framework is given, and nothing imports it.
"""

import sys

from inc_autotune.core.errors import MissingDependencyError
from inc_autotune.core.optional import require


def main() -> None:
    """Run the program; exits with its code."""
    try:
        require("typer", extra="cli")
    except MissingDependencyError as error:
        sys.exit(f"error: {error}")
    from inc_autotune.command_line import application

    application.main()
