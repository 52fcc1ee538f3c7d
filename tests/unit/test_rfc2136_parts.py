from __future__ import annotations

from random import Random

import pytest

from dualcert.plugins.dns import rfc2136
from dualcert.plugins.dns.rfc2136 import Rfc2136Options, Rfc2136Provider
from dualcert.ports.dns import TxtValue
from dualcert.ports.options import Secret

_MESSAGE = 65_535


@pytest.mark.parametrize("length", [20, 240])
def test_changes_fill_messages_and_none_is_too_long(length: int) -> None:
    provider = Rfc2136Provider(
        Rfc2136Options(server="127.0.0.1", tsig_name="key", tsig_secret=Secret("c2VjcmV0c2VjcmV0"))
    )
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
