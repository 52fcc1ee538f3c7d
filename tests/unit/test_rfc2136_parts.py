from __future__ import annotations

from random import Random

import pytest

from dualcert.plugins.dns import rfc2136
from dualcert.plugins.dns.rfc2136 import Rfc2136Options, Rfc2136Provider
from dualcert.ports.dns import TxtValue
from dualcert.ports.options import Secret

_MESSAGE = 65_535


def options(server: str) -> Rfc2136Options:
    return Rfc2136Options(server=server, tsig_name="key", tsig_secret=Secret("c2VjcmV0c2VjcmV0"))


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("127.0.0.1:53", 'write server = "127.0.0.1" and port = 53'),
        ("ns1.example.com:5353", 'write server = "ns1.example.com" and port = 5353'),
        ("[2001:db8::1]:53", 'write server = "2001:db8::1" and port = 53'),
        ("[2001:db8::1]", "an address or a host name"),
        ("dns:ns1.example.com", "an address or a host name"),
        ("https://ns1.example.com", "an address or a host name"),
    ],
)
def test_a_server_with_a_port_in_it_is_refused_with_what_to_write(server: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^server ") as refused:
        options(server)
    assert says in str(refused.value)


@pytest.mark.parametrize("server", ["192.0.2.53", "2001:db8::53", "fe80::1%eth0", "::1", "ns1.example.com"])
def test_addresses_and_host_names_serve_as_server(server: str) -> None:
    assert options(server).server == server


@pytest.mark.parametrize("length", [20, 240])
def test_changes_fill_messages_and_none_is_too_long(length: int) -> None:
    provider = Rfc2136Provider(options("127.0.0.1"))
    chance = Random(length)
    changes = [
        (TxtValue(_name(number, length), "v" * chance.choice([43, 255])), chance.random() < 0.5)
        for number in range(900)
    ]
    parts = list(rfc2136._parts(changes))
    assert [one for part in parts for one in part] == changes
    sizes = [len(provider._message("example.test", part).to_wire()) for part in parts]
    assert max(sizes) <= _MESSAGE
    assert min(sizes[:-1]) > _MESSAGE / 5, "few messages, although not every name comes twice"


def _name(number: int, length: int) -> str:
    labels = [f"n{number}"]
    while len(".".join([*labels, "example.test"])) < length:
        labels.append("x" * min(63, length - len(".".join([*labels, "example.test"]))))
    return ".".join([*labels, "example.test"])
