"""Where the process begins: an interrupt while modules are imported is one line as well."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; never returns."""
    try:
        from adaptrix.cli.main import main as run  # noqa: PLC0415 - what may be interrupted
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped; the store is consistent\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
