"""The examples of docs/plugins.md are plugins that may be relied upon."""

from __future__ import annotations

import importlib
import json
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence, Set
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import pytest
import trustme

from dualcert.ports.deploy import Placement
from dualcert.ports.dns import DnsProvider, TxtValue
from dualcert.ports.options import Secret
from dualcert.testing.apart import Call
from dualcert.testing.dns import DnsProviderConformance
from dualcert.testing.fakes_dns import FakeDnsServer
from tests.bindserver import free_port
from tests.conformance import test_exec_deploy
from tests.conformance.plugin_examples import GUIDE, example, write_modules

_FOLDER = TemporaryDirectory()
_PATH = str(write_modules(Path(_FOLDER.name)))
sys.path.insert(0, _PATH)
HOSTING: Any = importlib.import_module("dualcert_hosting")
BUNDLES: Any = importlib.import_module("dualcert_bundles")

ZONE = "example.test"
TOKEN, OTHER = "the-right-token", "another-token"


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    """Also in the processes that the suites start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _PATH)
        yield


# --- the DNS provider ------------------------------------------------------------------------------------


class Hosting(ThreadingHTTPServer):
    """Example Hosting, over HTTPS on loopback; below /busy it asks everybody to wait."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.zones = FakeDnsServer([ZONE], Secret(TOKEN))
        authority = trustme.CA()
        self.trusted = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.trusted))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Hosting)
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        zone = unquote(self.path.split("/")[-2])
        add, remove = ({TxtValue(**one) for one in text[what]} for what in ("add", "remove"))
        if self.path.startswith("/busy/"):
            self.answer(429)
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(403)
        elif zone not in self.server.zones.zones:
            self.answer(404)
        else:
            self.server.zones.change(zone, Secret(TOKEN), add, remove)
            self.answer(200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Not among the output of the tests."""


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with Hosting(tmp_path_factory.mktemp("hosting")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestHostingProvider(DnsProviderConformance):
    plugin = HOSTING.HostingProvider

    @pytest.fixture(autouse=True)
    def _service(self, hosting: Hosting) -> None:
        self.hosting = hosting

    def made(self, url: str, token: str = TOKEN) -> DnsProvider:
        options = HOSTING.HostingOptions(url=url, token=Secret(token), ca_bundle=self.hosting.trusted)
        return HOSTING.HostingProvider(options)  # type: ignore[no-any-return]

    def provider(self) -> DnsProvider:
        return self.made(self.hosting.url)

    def zone(self) -> str:
        return ZONE

    def read(self, name: str) -> Set[str]:
        return self.hosting.zones.read(name)

    def write_as_somebody_else(self, value: TxtValue) -> None:
        self.hosting.zones.write(value)

    def unknown_zone(self) -> str:
        return "nobody.test"

    def with_bad_credentials(self) -> DnsProvider:
        return self.made(self.hosting.url, OTHER)

    def unreachable(self) -> DnsProvider:
        return self.made(f"https://127.0.0.1:{free_port()}")

    def throttled(self) -> DnsProvider | None:
        return self.made(f"{self.hosting.url}/busy")

    def secrets(self) -> Collection[str]:
        return [TOKEN, OTHER]


# --- the deployer ----------------------------------------------------------------------------------------


class TestBundleDeployer(test_exec_deploy.TestExecDeployer):
    """Its files are those of the program in docs/exec.md: only how they come to be is another."""

    plugin = BUNDLES.BundleDeployer

    def options(self) -> Any:
        reload = ("sh", "-c", test_exec_deploy.RELOAD, "reload", str(self.server), str(self.live))
        return BUNDLES.BundleOptions(directory=self.live, reload=reload)

    def deployer(self) -> Any:
        return BUNDLES.BundleDeployer(self.options())

    def start(self, placements: Sequence[Placement], *, kill_before: int = 0, halt_before: int = 0) -> Call:
        return self.apart.start(
            BUNDLES.BundleDeployer,
            self.options(),
            placements,
            kill_before=kill_before,
            halt_before=halt_before,
        )


# --- the key protector -----------------------------------------------------------------------------------


def test_the_suite_that_the_page_shows_is_run_by_the_command_that_it_shows(tmp_path: Path) -> None:
    (tmp_path / "test_given.py").write_text(example("test_given"))
    [command] = re.findall(r"^python (-m pytest .*)$", GUIDE.read_text(), flags=re.MULTILINE)

    typed = [sys.executable, *command.split()]
    done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b3\d passed", done.stdout)
