"""nginx, reading the certificate for each handshake from the folder that the asked name stands for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from dualcert.lab.files import write_text
from dualcert.lab.https import presented_leaf
from dualcert.lab.ports import LOOPBACK, Port
from dualcert.lab.process import ServerProcess

PROBE_LABEL = "dualcert-probe"

# A variable in ssl_certificate makes nginx open the file at every handshake, so a switched file needs no
# reload; key and chain in one file are of one moment. master_process off: one process, that of our user,
# which may read files of mode 0600. A pair of a wildcard alone is asked for by a label under it.
_CONFIG = """\
{user}
daemon off;
master_process off;
pid nginx.pid;
error_log "{log}" info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    ssl_session_cache off;
    ssl_session_tickets off;
    ssl_protocols TLSv1.2 TLSv1.3;
    map $ssl_server_name $pair {{
        "~^{probe}\\.(?<rest>.+)$" "_wildcard.$rest";
        default $ssl_server_name;
    }}
    server {{
        listen {address} ssl backlog=511;
        server_name _;
        ssl_certificate "{live}/$pair/bundle.pem";
        ssl_certificate_key "{live}/$pair/bundle.pem";
        location / {{
            default_type text/plain;
            return 200 "ok\\n";
        }}
    }}
}}
"""


class NginxServer:
    """A TLS server for the folder ``live``, which need not exist yet."""

    address = LOOPBACK

    def __init__(self, *, program: Path, live: Path, private: Path, log: Path) -> None:
        self._port = Port.reserve()
        self.live = live
        folder = private / "nginx"
        folder.mkdir(parents=True)
        config = write_text(
            folder / "nginx.conf",
            _CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",
                log=log,
                probe=PROBE_LABEL,
                address=self._port,
                live=live,
            ),
        )
        self.process = ServerProcess(
            "nginx",
            [str(program), "-p", str(folder), "-c", str(config), "-e", str(log)],
            directory=folder,
            log=log,
        )

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def endpoint(self) -> str:
        """As ``dualcert.toml`` wants it."""
        return str(self._port)

    @property
    def pid(self) -> int:
        return self.process.pid

    def spawn(self) -> None:
        self._port.make_way()
        self.process.spawn()

    def wait_ready(self) -> None:
        self.process.wait_ready(self._listens)

    def start(self) -> None:
        self.spawn()
        self.wait_ready()

    def stop(self) -> None:
        self.process.stop()

    def handshake(self, server_name: str) -> bytes:
        """The leaf (DER) that it serves for this name; ssl.SSLError while it has none."""
        return presented_leaf((self.address, self.port), server_name)

    def close(self) -> None:
        self.stop()
        self._port.close()

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.address, self.port), 1.0).close()
        except OSError:
            return False
        return True
