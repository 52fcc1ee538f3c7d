"""When the places where CAs say what is revoked are asked, and how a certificate stands that nothing watches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import chain, islice, zip_longest
from typing import TypeVar

T = TypeVar("T")

SHORT_LIVED = timedelta(days=7)
"""Certificates of at most this life need not be revoked, nor tell where that would be seen (BR 4.9.1.1)."""

_USUAL = timedelta(minutes=30)
_SOONEST = timedelta(minutes=1)
_JITTER = 0.1
_FIRST_FAILURE = timedelta(minutes=1)
_MOST_FAILURE = timedelta(hours=1)


class SourceKind(StrEnum):
    """What watches certificates. The last two are none: rows that say why nothing does."""

    CRL = "crl"
    CRL_OF_CAS = "crl-of-cas"
    OCSP = "ocsp"
    SHORT_LIVED = "short-lived"
    NONE = "none"


ASKED = (SourceKind.CRL, SourceKind.CRL_OF_CAS)
"""One question each, for all certificates together."""


def unwatched(not_before: datetime, not_after: datetime) -> SourceKind:
    """What a certificate is that names no place to ask at."""
    return SourceKind.SHORT_LIVED if not_after - not_before <= SHORT_LIVED else SourceKind.NONE


def next_crl(now: datetime, draw: float) -> datetime:
    """A CRL is asked for twice an hour, whatever its nextUpdate: what was revoked since may be on it at any time, and
    where nothing has changed the answer is empty."""
    return now + _USUAL * (1 - _JITTER * draw)


def next_ocsp(now: datetime, this_update: datetime, next_update: datetime | None, draw: float) -> datetime:
    """An OCSP answer is made anew about half way through its validity (BR 4.9.10); within an hour to a day."""
    lasts = (next_update - this_update) / 2 if next_update is not None else _USUAL * 2
    return now + min(max(lasts, _USUAL * 2), timedelta(days=1)) * (1 - _JITTER * draw)


def after_failure(now: datetime, failures: int, draw: float) -> datetime:
    """A minute doubling to an hour; ``failures`` is how often it failed in a row before."""
    wait = min(_FIRST_FAILURE * int(2 ** min(failures, 10)), _MOST_FAILURE)
    return now + max(wait * (1 - _JITTER * draw), _SOONEST)


def sampled(subjects: Iterable[T], group: Callable[[T], Hashable], limit: int) -> list[T]:
    """At most ``limit`` of them, from as many groups as possible: first one of each, then a second one.

    What a CA has done wrong it has mostly done to all that it issued within an hour.
    """
    groups: dict[Hashable, list[T]] = {}
    for one in subjects:
        groups.setdefault(group(one), []).append(one)
    missing = object()
    rows = chain.from_iterable(zip_longest(*groups.values(), fillvalue=missing))
    return list(islice((one for one in rows if one is not missing), limit))  # type: ignore[misc]
