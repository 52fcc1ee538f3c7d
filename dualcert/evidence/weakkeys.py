"""Known weaknesses of public keys, by badkeys (https://badkeys.info), where that is installed.

Its checks for RSA need nothing but the key. That for keys that have leaked, the only one for elliptic curves, needs a
list that `badkeys --update-bl` fetches; nothing is fetched here.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from dualcert.errors import KeyProblem
from dualcert.ports.weakness import Blocklist, KeyInspector

_LEAKED = "blocklist"
_ENTRY = 16
_REMEMBERED = 4096
"""A key is looked at when it is made and again when its certificate comes; those of CAs come with each."""


def installed() -> KeyInspector | None:
    """None without the extra ``dualcert[badkeys]``."""
    return BadKeys() if find_spec("badkeys") is not None else None


class BadKeys:
    """``KeyInspector`` by badkeys, with all of its checks that it makes when nothing is said."""

    def __init__(self) -> None:
        import badkeys

        self.name = f"badkeys {badkeys.__version__}"
        self.blocklist = _blocklist()
        # Asked for a list that is not there, it would end the process.
        left_out = set() if self.blocklist.fetched is not None else {_LEAKED}
        self._checks = [name for name in badkeys.defaultchecks if name not in left_out]
        self._look: Any = badkeys.checkpubkey
        kinds = {badkeys.defaultchecks[name]["type"] for name in self._checks}
        self._looks_at_curves = not kinds.isdisjoint({"all", "ec"})
        self._found = lru_cache(_REMEMBERED)(self._inspected)

    def weaknesses(self, key: bytes) -> tuple[str, ...]:
        return self._found(key)

    def _inspected(self, key: bytes) -> tuple[str, ...]:
        public = load_der_public_key(key)
        if isinstance(public, EllipticCurvePublicKey) and not self._looks_at_curves:
            return ()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        said: dict[str, Any] = self._look(pem.decode("ascii"), checks=self._checks)
        if said["type"] in {"unparseable", "unsupported"}:
            raise KeyProblem(f"{self.name} cannot look at a key of this kind: {said.get('errmsg', '')}")
        # Of a result only its name is told: with it may come the private key, or what it follows from.
        return tuple(
            f"{check} ({result['subtest']})" if result.get("subtest") else check
            for check, result in sorted(said["results"].items())
        )


def _blocklist() -> Blocklist:
    """Whether its list is where badkeys looks for it, and is one."""
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = Path(os.path.expanduser(os.path.join(cache or "~/.cache", "badkeys")))  # noqa: PTH111, PTH118 - as it does
    names, data = folder / "badkeysdata.json", folder / "blocklist.dat"
    try:
        if not data.exists() and not names.exists():
            return Blocklist(folder)
        lists = json.loads(names.read_bytes())["blocklists"]
        known = {int(one["id"]): str(one["name"]) for one in lists}
        with data.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            fetched = datetime.fromtimestamp(os.fstat(opened.fileno()).st_mtime, UTC)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return Blocklist(folder, problem=f"it cannot be read: {error!r}")
    if not known or size == 0 or size % _ENTRY:
        return Blocklist(folder, problem="it is empty or cut off")
    return Blocklist(folder, fetched)
