"""A queue in front of each Pebble: it stands still for ever once more than four requests meet inside it."""

from __future__ import annotations

import csv
import http.client
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dualcert.lab.certificates import ApiCertificate
from dualcert.lab.errors import LabError
from dualcert.lab.files import write_text
from dualcert.lab.https import answers
from dualcert.lab.pebble import PebbleServer
from dualcert.lab.ports import Port
from dualcert.lab.process import ServerProcess

IN_FLIGHT = 4

# http-reuse: the limit must count requests, not the connections that clients keep open, so connections to the
# server belong to nobody. The Host header stays as it came: Pebble builds its URLs from it, and they lead
# back here.
_COMMON = """\
global
    nbthread 1
    maxconn 400
    log stdout format raw local0

defaults
    mode http
    log global
    option http-keep-alive
    http-reuse always
    retries 2
    timeout connect 5s
    timeout client 90s
    timeout http-request 30s
    timeout http-keep-alive 60s
    timeout queue 60s
    timeout server 60s

frontend statistics
    bind {statistics}
    no log
    stats enable
    stats uri /
"""

_ONE = """
frontend {name}
    bind {limited} ssl crt {bundle}
    option httplog
    default_backend {name}

backend {name}
    server pebble {address} ssl verify required ca-file {ca} maxconn {in_flight}
"""


class Limiter:
    """One HAProxy for both CAs."""

    def __init__(
        self,
        fronts: Sequence[tuple[PebbleServer, ApiCertificate]],
        *,
        program: Path,
        directory: Path,
        private: Path,
    ) -> None:
        self._pebbles = [pebble for pebble, _ in fronts]
        self._statistics = Port.reserve()
        parts = [_COMMON.format(statistics=self._statistics)]
        for pebble, certificate in fronts:
            parts.append(
                _ONE.format(
                    name=pebble.name,
                    limited=pebble.limited_address,
                    bundle=_quoted(certificate.bundle),
                    address=pebble.address,
                    ca=_quoted(certificate.ca),
                    in_flight=IN_FLIGHT,
                )
            )
        config = write_text(private / "haproxy.cfg", "".join(parts))
        self.process = ServerProcess(
            "limiter",
            [str(program), "-db", "-f", str(config)],
            directory=private,
            log=directory / "logs" / "limiter.log",
        )

    def spawn(self) -> None:
        self._statistics.make_way()
        self.process.spawn()

    def wait_ready(self) -> None:
        """Wait until each directory answers through it; the Pebbles have to be up."""
        for pebble in self._pebbles:
            self.process.wait_ready(partial(answers, pebble.directory_url, pebble.api_ca_pem, 1.0))

    def most_in_flight(self, name: str) -> int:
        """The largest number of requests that the Pebble of this name has had at one time."""
        connection = http.client.HTTPConnection(str(self._statistics), timeout=5.0)
        try:
            connection.request("GET", "/;csv")
            table = connection.getresponse().read().decode().removeprefix("# ")
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"the limiter's statistics do not answer: {error}") from error
        finally:
            connection.close()
        for row in csv.DictReader(table.splitlines()):
            if row["pxname"] == name and row["svname"] == "pebble":
                return int(row["smax"])
        raise LabError("the limiter does not know this CA", ca=name)

    def stop(self) -> None:
        self.process.stop()

    def close(self) -> None:
        self.stop()
        self._statistics.close()


def _quoted(path: Path) -> str:
    """A path as one word of HAProxy's language (no shell expansion inside single quotes)."""
    return "'" + str(path).replace("'", "'\\''") + "'"
