"""What is seen at an endpoint that has several addresses, with real handshakes on loopback."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from dualcert.errors import ProbeFailed
from dualcert.lifecycle import probing
from dualcert.testing.placements import placement
from tests.tlsserver import tls_servers

CLUSTER, NAME = "www.cluster.example", "a.example.com"
OLD, NEW = placement(NAME, 0, 1), placement(NAME, 1, 2)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of ``CLUSTER``, for a test to fill."""
    addresses: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host != CLUSTER:
            return real(host, port, *more, **options)
        return [found for address in addresses for found in real(address, port, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return addresses


def test_each_address_is_looked_at_and_told(tmp_path: Path, cluster: list[str]) -> None:
    cluster += ["127.0.0.1", "127.0.0.2"]
    with tls_servers(tmp_path, *cluster) as [first, second]:
        first.present(NEW)
        second.present(OLD)
        port = first.port
        assert list(probing.served(CLUSTER, port, NAME)) == [
            (f"{CLUSTER}:{port} (127.0.0.1)", NEW.sha256),
            (f"{CLUSTER}:{port} (127.0.0.2)", OLD.sha256),
        ]
        assert list(probing.served("127.0.0.2", port, NAME)) == [(f"127.0.0.2:{port}", OLD.sha256)]
        assert len(probing.reached(CLUSTER, port)) == 2


def test_an_address_that_answers_nonsense_is_named(tmp_path: Path, cluster: list[str]) -> None:
    cluster += ["127.0.0.1", "127.0.0.2"]
    with tls_servers(tmp_path, *cluster) as [first, _]:
        first.present(NEW)
        with pytest.raises(ProbeFailed, match=r"no handshake with .* \(127\.0\.0\.2\) for a\.example\.com"):
            list(probing.served(CLUSTER, first.port, NAME))


def test_where_nobody_listens_on_one_of_the_loopback_addresses_the_others_count(
    tmp_path: Path, cluster: list[str]
) -> None:
    cluster += ["::1", "127.0.0.1"] if socket.has_ipv6 else ["127.0.0.3", "127.0.0.1"]
    with tls_servers(tmp_path, "127.0.0.1") as [server]:
        server.present(NEW)
        assert [seen for _, seen in probing.served(CLUSTER, server.port, NAME)] == [NEW.sha256]
        assert probing.reached(CLUSTER, server.port) == [f"{CLUSTER}:{server.port} (127.0.0.1)"]
    with pytest.raises(ProbeFailed, match=r"nobody answers at .*: Connection refused"):
        probing.reached(CLUSTER, server.port)


def test_a_refusal_elsewhere_is_a_failure(
    tmp_path: Path, cluster: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if 127.0.0.3 were another machine."""
    cluster += ["127.0.0.1", "127.0.0.3"]
    monkeypatch.setattr(probing, "ip_address", lambda _: type("Another", (), {"is_loopback": False}))
    with tls_servers(tmp_path, "127.0.0.1") as [server]:
        server.present(NEW)
        with pytest.raises(ProbeFailed, match=r"\(127\.0\.0\.3\) for .*: Connection refused"):
            list(probing.served(CLUSTER, server.port, NAME))


def test_an_address_that_this_machine_cannot_send_to_is_left_out_unless_there_is_no_other(
    tmp_path: Path, cluster: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"fe80::{number}", 443, 0, 0)) for number in (1, 2)
    ]
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *given, **more: [*unreachable, *resolve(*given, **more)]
    )
    cluster.append("127.0.0.1")
    with tls_servers(tmp_path, *cluster) as [server]:
        server.present(NEW)
        assert [seen for _, seen in probing.served(CLUSTER, server.port, NAME)] == [NEW.sha256]
    cluster.clear()
    with pytest.raises(ProbeFailed, match=r"no handshake with .* \(fe80::1\)"):
        list(probing.served(CLUSTER, server.port, NAME))


def test_a_name_without_an_address(cluster: list[str]) -> None:
    with pytest.raises(ProbeFailed, match="no handshake with nowhere.invalid:443 for a.example.com"):
        list(probing.served("nowhere.invalid", 443, NAME))
