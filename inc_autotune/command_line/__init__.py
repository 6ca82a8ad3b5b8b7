"""The command `inc-autotune`: the library for a shell, on files.

Imports the extensions, each only when a model of its framework is given, and nothing imports it.
"""

from inc_autotune.core.optional import require


def main() -> None:
    """Run the program; exits with its code.

    Raises:
        MissingDependencyError: typer is not installed; the message names the extra.
    """
    require("typer", extra="cli")
    from inc_autotune.command_line import application

    application.main()
