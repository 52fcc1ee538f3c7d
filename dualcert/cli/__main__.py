"""``python -m dualcert.cli``: the command where no console script is on PATH."""

from __future__ import annotations

from dualcert.cli import entry

if __name__ == "__main__":
    entry()
