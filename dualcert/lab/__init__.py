"""Two CAs, DNS and a TLS server on loopback: all that a pair meets in its life, for rehearsals and tests.

``Lab.start`` brings up two Pebbles of different configuration behind a limiter, BIND and nginx, and writes a
``dualcert.toml`` that names them. Nothing outside its folder is written, nothing listens beyond 127.0.0.1,
and no server outlives the process that started it.
"""

from __future__ import annotations

from dualcert.lab.bind import BindServer, TsigKey
from dualcert.lab.errors import LabError
from dualcert.lab.interruption import ending_on_signals
from dualcert.lab.lab import Lab
from dualcert.lab.limiter import Limiter
from dualcert.lab.nginx import PROBE_LABEL, NginxServer
from dualcert.lab.options import LabOptions
from dualcert.lab.pebble import Eab, PebbleServer
from dualcert.lab.servers import LabServers

__all__ = [
    "PROBE_LABEL",
    "BindServer",
    "Eab",
    "Lab",
    "LabError",
    "LabOptions",
    "LabServers",
    "Limiter",
    "NginxServer",
    "PebbleServer",
    "TsigKey",
    "ending_on_signals",
]
