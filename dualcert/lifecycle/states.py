"""The words for what a pair and its certificates amount to, from the plain rows of ``store.overview``."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from dualcert.policy.protection import ProtectionFacts, protection
from dualcert.store.overview import Line


class Words(NamedTuple):
    """A pair's protection and the states of its two certificates, empty where there is none."""

    protection: str
    primary: str
    backup: str


def words(line: Line, at: int) -> Words:
    """At an instant in microseconds."""
    _, _, _, _, serving_until, serving_bad, standby_until, standby_bad, usable, served = line
    return _words(
        None if serving_until is None else serving_until <= at,
        serving_bad,
        None if standby_until is None else standby_until <= at,
        standby_bad,
        usable,
        served,
    )


@cache
def _words(
    serving_expired: bool | None,
    serving_bad: bool,
    standby_expired: bool | None,
    standby_bad: bool,
    usable: bool,
    served: bool,
) -> Words:
    """There are few of them; an inventory has millions of pairs. Expired is None where there is no certificate."""
    serving = serving_expired is not None
    facts = ProtectionFacts(
        issued=serving or standby_expired is not None,
        serving=serving,
        serving_bad="it must not serve" if serving_bad or serving_expired else None,
        standby_usable=bool(usable),
        served_everywhere=serving and bool(served),
    )
    return Words(
        protection(facts).value,
        _state(serving_expired, serving_bad, "serving"),
        _state(standby_expired, standby_bad, "ready"),
    )


def _state(expired: bool | None, bad: bool, good: str) -> str:
    if expired is None:
        return ""
    return "revoked" if bad else "expired" if expired else good
