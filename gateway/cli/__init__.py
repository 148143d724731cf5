"""The command line `gateway`: one small file a command. Beside the path; not pure.

    app            every command by its name          screen         tables, plain lines, errors and exit codes
    configuration  the configuration as commands need it: whole, or only where ledger and admin port are
    init, check, serve, keys                           edit, check and run a configuration
    usage, entries, limits, models                     questions to the ledger, the admin port and the model cards
    simulator      an OpenAI to develop against        demo/          everything at once, and the bill

Exit codes: 0 done, 1 failed or different, 2 bad usage or configuration. Data goes to stdout, everything else to stderr; on a
terminal as tables, otherwise as tab-separated lines, with `--json` as JSON. Rooms that take time to import are imported inside
the command that needs them, so that `gateway --help` answers at once. Must never write a ledger or a journal.
"""

from __future__ import annotations


def main() -> None:
    """Run the command that the arguments name, and exit."""
    from gateway.cli.app import app

    app()
