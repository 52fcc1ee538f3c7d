"""What a process does before it forks children that are to start in milliseconds."""

from __future__ import annotations

import gc
import importlib
import pkgutil

_NOT_NEEDED = (
    "dualcert.lab",
    "dualcert.testing",
    "dualcert.cli.lab",
    "dualcert.cli.__main__",
    "dualcert.migrations",
)
_LAZY = ("publicsuffixlist", "dns.query", "dns.update", "dns.tsigkeyring", "acme.client", "rich.console")


def import_everything() -> None:
    """Everything that a command may import and read for itself; no thread runs afterwards."""
    import dualcert

    for module in pkgutil.walk_packages(dualcert.__path__, "dualcert."):
        if not module.name.startswith(_NOT_NEEDED):
            importlib.import_module(module.name)
    for name in _LAZY:
        importlib.import_module(name)

    from dualcert.lifecycle.suffixes import public_suffixes

    for private in (True, False):
        public_suffixes(private=private)
    gc.freeze()
