"""The rows of an invented inventory, as the product leaves them once both certificates of every pair are deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import count
from random import Random
from typing import Any

from sqlalchemy import Table

from bench.specimens import Places, Specimen, Specimens
from dualcert.clock import from_microseconds, to_microseconds
from dualcert.lifecycle.world import World
from dualcert.model import names as naming
from dualcert.model.deployment import How
from dualcert.model.events import EventKind
from dualcert.model.order import OrderStep
from dualcert.model.pair import KeyType
from dualcert.policy.due import PROOF_LASTS
from dualcert.policy.watching import SourceKind
from dualcert.store import incident_tables, tables

Rows = dict[Table, list[tuple[Any, ...]]]

_US = timedelta(microseconds=1)
_SECOND, _HOUR, DAY = timedelta(seconds=1) // _US, timedelta(hours=1) // _US, timedelta(days=1) // _US
MINUTE = 60 * _SECOND
_LIFE = 90 * DAY
_OLDEST, _YOUNGEST = 57 * DAY, _HOUR
SPAN = _OLDEST - _YOUNGEST
"""Two thirds of the life less the jitter: of the oldest nothing is due within a day."""

_PROVED = 20 * DAY
PROVED_FOR = PROOF_LASTS // _US
_KEY_TYPE, _STORED, _WIRE = KeyType.EC_P256.value, OrderStep.STORED.value, How.WIRE.value
_CRL = SourceKind.CRL.value
SUBDOMAINS = 1000

_ARRIVED = ("arrived_at", "verified_at", "how")
COLUMNS: dict[Table, tuple[str, ...]] = {
    tables.pair: ("id", "name", "names_digest", "key_type", "dns", "first_wait", "created_at"),
    tables.pair_name: ("pair_id", "position", "reversed_name"),
    tables.pair_target: ("pair_id", "target"),
    tables.pair_state: (
        "pair_id",
        "epoch",
        "serving",
        "standby",
        "primary_lineage",
        "backup_lineage",
        "backup_ok_until",
        "next_action_at",
    ),
    tables.lineage: ("id", "pair_id", "ca", "domain", "opened_at", "renew_at"),
    tables.issuance: ("id", "pair_id", "cause", "opened_at"),
    tables.acme_order: (
        "id",
        "issuance_id",
        "pair_id",
        "lineage_id",
        "ca",
        "step",
        "names",
        "spki",
        "csr",
        "url",
        "finalize",
        "authorizations",
        "created_at",
    ),
    tables.public_key: ("spki", "pair_id", "ca", "issuance_id", "created_at"),
    tables.wrapped_key: ("spki", "domain", "key_id", "wrapped", "proved_at", "destroy_at"),
    tables.certificate: (
        "id",
        "pair_id",
        "lineage_id",
        "ca",
        "serial",
        "issuer",
        "issuer_hash",
        "issuing_key",
        "root_key",
        "sha256",
        "spki",
        "names_digest",
        "key_type",
        "not_before",
        "not_after",
        "chain_hash",
        "stored_at",
    ),
    tables.leaf: ("certificate_id", "der"),
    tables.chain: ("hash", "pem"),
    tables.renewal_info: (
        "certificate_id",
        "pair_id",
        "ca",
        "ari_id",
        "life_at",
        "window_start",
        "window_end",
        "renew_at",
        "asked_at",
        "check_at",
        "failures",
    ),
    incident_tables.watch_source: (
        "id",
        "kind",
        "place",
        "issuing_key",
        "issuer_hash",
        "ca",
        "due_at",
        "asked_at",
        "good_at",
        "this_update",
        "next_update",
        "entries",
    ),
    incident_tables.watched: ("certificate_id", "source_id"),
    tables.deployment: ("id", "pair_id", "target", "epoch", "certificate_id", *_ARRIVED),
    tables.observation: ("pair_id", "target", "sha256", "how", "at"),
    tables.event: ("id", "at", "kind", "actor", "cause", "pair_id", "ca", "target", "certificate_id"),
}
"""What is written. All other columns are as in a row that the product has just inserted."""


class Inventory:
    """So many pairs, under the configuration's defaults, the oldest first; the same ones for the same seed.

    A pair covers a name and, with ``wildcards``, all names below it. The first ``real`` pairs have keys that open and
    certificates that are signed, what the others have is filled in. Nothing is due within the next six hours.
    ``history``: with every event that an issuance leaves, not just those that tell its outcome.
    """

    def __init__(
        self,
        world: World,
        pairs: int,
        *,
        seed: int,
        real: int,
        zone: str,
        targets: Sequence[str] | None,
        wildcards: bool,
        history: bool,
    ) -> None:
        self._random = Random(seed)
        self._new = world.new_pairs
        self._targets = tuple(self._new.targets if targets is None else targets)
        self._pairs, self._real, self._zone, self._history = pairs, real, zone, history
        self._now = to_microseconds(world.clock.now())
        self._actor = world.store.actor
        self._forms = ("{}", "*.{}") if wildcards else ("{}",)
        self._cas = [
            Specimens(world, ca, self._forms, self.name(0), self._random)
            for ca in (self._new.primary, self._new.backup)
        ]
        self._deployments, self._events = count(1), count(1)
        self._rows: Rows = {}

    def name(self, number: int) -> str:
        """All are of one length, and a thousandth of them below one name."""
        return f"pair-{number:08}.z{number % SUBDOMAINS:03}.{self._zone}"

    @property
    def places(self) -> dict[str, Places]:
        """Where what a certificate says stands in it, by the CA's name."""
        return {one.ca.name: one.places for one in self._cas}

    def batches(self, size: int) -> Iterator[Rows]:
        """The rows of so many pairs at a time."""
        self._rows = {table: [] for table in COLUMNS}
        self._rows[tables.chain] = [(one.ca.chain_hash, one.ca.chain_pem) for one in self._cas]
        self._rows[incident_tables.watch_source] = [self._watching(*one) for one in enumerate(self._cas, 1)]
        for number in range(1, self._pairs + 1):
            self._pair(number)
            if number % size == 0 or number == self._pairs:
                yield self._rows
                self._rows = {table: [] for table in COLUMNS}

    def _watching(self, number: int, ca: Specimens) -> tuple[Any, ...]:
        """The CRL of a CA, seen a moment ago: it has no entries, and is not due within the next six hours."""
        of, seen = ca.ca, self._now - _SECOND
        signed = (of.crl, of.issuing_key, of.issuer_hash, of.name)
        return (number, _CRL, *signed, self._now + 6 * _HOUR, seen, seen, seen, self._now + DAY, 0)

    def _pair(self, number: int) -> None:
        rows, new, draw = self._rows, self._new, self._random.random
        name = self.name(number)
        names = [form.format(name) for form in self._forms]
        digest = naming.digest(names)
        age = _YOUNGEST + SPAN * (self._pairs - number) // self._pairs
        made = self._now - age
        rows[tables.pair].append((number, name, digest, _KEY_TYPE, new.dns, new.first_wait, made))
        for position, one in enumerate(names):
            rows[tables.pair_name].append((number, position, naming.reversed_name(one)))
        rows[tables.issuance].append((number, number, "first issuance", made))
        proved = max(made, self._now - int(draw() * _PROVED))
        primary, backup = (
            self._side(ca, number, 2 * number + side - 1, names, digest, made, proved)
            for side, ca in enumerate(self._cas)
        )
        ok_until = min(primary.until - DAY, proved + PROVED_FOR)
        rows[tables.pair_state].append(
            (
                number,
                0,
                primary.number,
                backup.number,
                primary.number,
                backup.number,
                ok_until,
                min(primary.renew_at, backup.renew_at),
            )
        )
        for target in self._targets:
            rows[tables.pair_target].append((number, target))
            self._deployed(number, target, primary)
        self._tell(number, made, names, primary, backup)

    def _side(
        self,
        ca: Specimens,
        pair: int,
        number: int,
        names: Sequence[str],
        digest: bytes,
        made: int,
        proved: int,
    ) -> _Side:
        """A lineage with its order and its certificate, which all have one number here."""
        rows, draw = self._rows, self._random.random
        placed, stored = made + _SECOND, made + 5 * _SECOND + int(draw() * _SECOND)
        since = (made // _SECOND) * _SECOND - _HOUR
        until = since + _LIFE - _SECOND
        has = (ca.real if pair <= self._real else ca.filled_in)(names[0], since, until)
        side = _Side(ca.ca.name, number, since, until, stored, has)
        self._order(ca, pair, side, names, placed)
        rows[tables.wrapped_key].append((has.spki, ca.domain, ca.key_id, has.wrapped, proved, until))
        of = ca.ca
        rows[tables.certificate].append(
            (
                number,
                pair,
                number,
                of.name,
                has.serial,
                of.issuer,
                of.issuer_hash,
                of.issuing_key,
                of.root_key,
                side.sha256,
                has.spki,
                digest,
                _KEY_TYPE,
                since,
                until,
                of.chain_hash,
                stored,
            )
        )
        rows[tables.leaf].append((number, has.der))
        rows[incident_tables.watched].append((number, self._cas.index(ca) + 1))
        self._renewal(pair, side)
        rows[tables.lineage].append((number, pair, of.name, ca.domain, made, side.renew_at))
        return side

    def _order(self, ca: Specimens, pair: int, side: _Side, names: Sequence[str], placed: int) -> None:
        of, has = ca.ca.name, side.specimen
        self._rows[tables.public_key].append((has.spki, pair, of, pair, placed))
        self._rows[tables.acme_order].append(
            (
                side.number,
                pair,
                pair,
                side.number,
                of,
                _STORED,
                "\n".join(names),
                has.spki,
                has.csr,
                f"https://{of}.invalid/acme/order/1/{side.number}",
                f"https://{of}.invalid/acme/finalize/1/{side.number}",
                "\n".join(
                    f"https://{of}.invalid/acme/authz/1/{side.number}{one}" for one in range(len(names))
                ),
                placed,
            )
        )

    def _renewal(self, pair: int, side: _Side) -> None:
        """By its life, and in a window of two days about then."""
        draw = self._random.random
        length = side.until - side.since
        two_thirds = side.since + length * 2 // 3
        life_at = two_thirds - int(min(length // 50, DAY) * draw())
        opens = two_thirds - DAY
        drawn = opens + int(2 * DAY * draw())
        check_at = self._now + 6 * _HOUR + int(18 * _HOUR * draw())
        asked_at = max(side.stored, check_at - DAY)
        side.renew_at = min(life_at, drawn)
        self._rows[tables.renewal_info].append(
            (
                side.number,
                pair,
                side.ca,
                side.specimen.ari_id,
                life_at,
                opens,
                opens + 2 * DAY,
                drawn,
                asked_at,
                check_at,
                0,
            )
        )

    def _deployed(self, pair: int, target: str, served: _Side) -> None:
        at = served.stored + _SECOND // 20
        seen = at + _SECOND // 20
        self._rows[tables.deployment].append(
            (next(self._deployments), pair, target, 0, served.number, at, seen, _WIRE)
        )
        self._rows[tables.observation].append((pair, target, served.sha256, _WIRE, seen))

    # --- what has happened -------------------------------------------------------------------------------

    def _tell(self, pair: int, made: int, names: Sequence[str], primary: _Side, backup: _Side) -> None:
        sides = (primary, backup)
        cause = f"{primary.ca} and {backup.ca} for {', '.join(names)}"
        self._event(made, EventKind.CREATED, cause, pair)
        if self._history:
            self._tell_of_orders(pair, made, len(names), sides)
        until = _minute(primary.until // MINUTE)
        for role, side in zip(("primary", "backup"), sides, strict=True):
            cause = f"{role} certificate, valid until {until}"
            self._event(side.stored, EventKind.STORED, cause, pair, ca=side.ca, certificate=side.number)
        for target in self._targets:
            at = primary.stored + _SECOND // 20
            for when, kind, cause in (
                (at, EventKind.DEPLOYED, "read back as written"),
                (at + _SECOND // 20, EventKind.VERIFIED, "seen by wire"),
            ):
                self._event(when, kind, cause, pair, target=target, certificate=primary.number)

    def _tell_of_orders(self, pair: int, made: int, names: int, sides: Sequence[_Side]) -> None:
        placed, later = made + _SECOND, made + 3 * _SECOND
        url = "https://{}.invalid/acme/order/1/{}"
        for kind, at, cause in (
            (EventKind.ORDER_DUE, made, "first issuance"),
            (EventKind.ORDERING, placed, "a new key of type ec-p256"),
            (EventKind.PLACED, placed, url),
            (EventKind.ANSWERED, later, f"{names} challenges"),
            (EventKind.VALIDATED, later, "every name is authorized"),
        ):
            for side in sides:
                self._event(at, kind, cause.format(side.ca, side.number), pair, ca=side.ca)
        self._event(later, EventKind.PUBLISHED, f"{2 * names} TXT values on every server", pair)
        self._event(later + _SECOND, EventKind.WITHDRAWN, f"{2 * names} TXT values", pair)

    def _event(
        self,
        at: int,
        kind: EventKind,
        cause: str,
        pair: int,
        *,
        ca: str | None = None,
        target: str | None = None,
        certificate: int | None = None,
    ) -> None:
        self._rows[tables.event].append(
            (next(self._events), at, kind.value, self._actor, cause, pair, ca, target, certificate)
        )


@lru_cache(maxsize=8)
def _minute(number: int) -> str:
    return f"{from_microseconds(number * MINUTE):%Y-%m-%d %H:%M} UTC"


class _Side:
    """A lineage with its certificate. Times in microseconds."""

    __slots__ = ("ca", "number", "renew_at", "sha256", "since", "specimen", "stored", "until")

    def __init__(self, ca: str, number: int, since: int, until: int, stored: int, specimen: Specimen) -> None:
        self.ca, self.number, self.specimen = ca, number, specimen
        self.since, self.until, self.stored = since, until, stored
        self.sha256 = specimen.sha256
        self.renew_at = 0
