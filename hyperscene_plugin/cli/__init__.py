"""The ``hyperscene`` command. Exit codes: 0 done, 1 the work failed, 2 wrong usage or settings, 130 interrupted."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    from hyperscene_plugin.cli.app import run

    sys.exit(run(sys.argv[1:]))
