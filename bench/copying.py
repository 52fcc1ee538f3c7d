"""What is new in a copy of an invented inventory's first pairs, as SQL for PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Table

from bench.rows import COLUMNS, DAY, MINUTE, PROVED_FOR, SUBDOMAINS
from bench.specimens import Places
from dualcert.store import incident_tables, tables

SCHEMA = "first"
"""Where the first pairs lie."""

# The certificate that serves; both of a pair have the same times.
_SERVING = f" JOIN {SCHEMA}.certificate c ON c.id = 2 * t.pair_id - 1"
_ITS = f" JOIN {SCHEMA}.certificate c ON c.id = t.certificate_id"
_LEAF = f" JOIN {SCHEMA}.leaf l ON l.certificate_id = "
_JOINS = {
    tables.pair_state: f"{_SERVING} JOIN {SCHEMA}.pair p ON p.id = t.pair_id"
    f" JOIN {SCHEMA}.wrapped_key w ON w.spki = c.spki",
    tables.wrapped_key: f" JOIN {SCHEMA}.certificate c ON c.spki = t.spki"
    f" JOIN {SCHEMA}.pair p ON p.id = c.pair_id",
    tables.certificate: f"{_LEAF}t.id",
    tables.leaf: _ITS,
    tables.renewal_info: _ITS,
    tables.observation: f"{_SERVING}{_LEAF}c.id",
    tables.event: _SERVING,
}
_PAIR = {
    tables.pair: "t.id",
    tables.issuance: "t.pair_id",
    tables.wrapped_key: "c.pair_id",
    tables.leaf: "c.pair_id",
    incident_tables.watched: "(t.certificate_id + 1) / 2",
}
_OF_PAIR = frozenset({"pair_id", "issuance_id"})
_OF_SIDE = frozenset(
    {"serving", "standby", "primary_lineage", "backup_lineage", "lineage_id", "certificate_id"}
)
_MOVED = frozenset(
    {
        *("created_at", "opened_at", "renew_at", "next_action_at", "not_before", "not_after", "stored_at"),
        *("life_at", "window_start", "window_end", "at", "arrived_at", "verified_at", "destroy_at"),
    }
)
_SALT = "int4send(k.number::integer)"


@dataclass(frozen=True)
class Copy:
    """``first``: how many pairs there are to copy, of ``pairs`` in the end, whose times go on by ``span`` microseconds
    from the first one's to the last one's. ``places``: by the CA's name. ``hashed``: certificates have only a hash."""

    first: int
    pairs: int
    span: int
    zone: str
    wildcards: bool
    places: Mapping[str, Places]
    hashed: bool

    def query(self, table: Table, rows: int) -> str:
        """The rows of all copies, one copy after another. ``rows``: how many the first pairs have in this table."""
        copies = -(-self.pairs // self.first) - 1
        shift = f"{self.span * self.first} / {self.pairs} * number / {MINUTE} * {MINUTE}"
        each = f"SELECT number, {shift} AS shift FROM generate_series(1, {copies}::bigint) AS number"
        pair = f"{_PAIR.get(table, 't.pair_id')} + {self.first} * k.number"
        changed = self._changed(table, rows)
        columns = ", ".join(f"{changed.get(name, f't.{name}')} AS {name}" for name in COLUMNS[table])
        join = _JOINS.get(table, "")
        join = join.partition(_LEAF)[0] if self.hashed else join
        # What depends on the copy's number is done anew for each: one copy after another.
        return (
            f"SELECT x.* FROM ({each}) AS k CROSS JOIN LATERAL (SELECT {columns} FROM {SCHEMA}.{table.name} t"
            f"{join} WHERE {pair} <= {self.pairs} OFFSET 0) AS x"
        )

    def _changed(self, table: Table, rows: int) -> dict[str, str]:
        """What is put in place of a column."""
        steps = {
            **dict.fromkeys(_OF_PAIR, self.first),
            **dict.fromkeys(_OF_SIDE, 2 * self.first),
            "id": rows,
        }
        changed = {name: f"t.{name} + {step} * k.number" for name, step in steps.items()}
        changed |= {name: f"t.{name} + k.shift" for name in _MOVED}
        return {**changed, **self._special(table, rows)}

    def _special(self, table: Table, rows: int) -> Mapping[str, str]:
        proved = "greatest({}.proved_at, p.created_at + k.shift)"
        proof = f"{proved.format('w')} + {PROVED_FOR}"
        order = f"replace(t.{{}}, '/1/' || t.id, '/1/' || (t.id + {rows} * k.number))"
        encoded = f"rtrim(translate(encode({self._serial('c')}, 'base64'), '+/', '-_'), '=')"
        spki = {"spki": self._spki("t")}
        special = {
            tables.pair: {"name": self._name("t.id"), "names_digest": self._digest("t.id")},
            tables.pair_name: {"reversed_name": self._reversed("t.pair_id")},
            tables.pair_state: {"backup_ok_until": f"least(c.not_after + k.shift - {DAY}, {proof})"},
            tables.acme_order: {
                **{name: order.format(name) for name in ("url", "finalize", "authorizations")},
                "names": self._renamed("t.names", "t.pair_id"),
                "csr": self._csr(),
                **spki,
            },
            tables.public_key: spki,
            tables.wrapped_key: {"proved_at": proved.format("t"), **spki},
            tables.certificate: {
                "serial": self._serial("t"),
                "names_digest": self._digest("t.pair_id"),
                "sha256": self._sha256("t"),
                **spki,
            },
            tables.leaf: {"der": self._der("c", "t.der")},
            tables.renewal_info: {
                "ari_id": f"split_part(t.ari_id, '.', 1) || '.' || {encoded}",
                "asked_at": "greatest(t.asked_at, c.stored_at + k.shift)",
            },
            tables.observation: {"sha256": self._sha256("c")},
            tables.event: {"cause": self._cause()},
        }
        return special.get(table, {})

    # --- names -------------------------------------------------------------------------------------------

    def _labels(self, pair: str, *, copied: bool = True) -> tuple[str, str]:
        number = f"({pair} + {self.first} * k.number)" if copied else pair
        host = f"'pair-' || lpad({number}::text, 8, '0')"
        return host, f"'z' || lpad(({number} % {SUBDOMAINS})::text, 3, '0')"

    def _name(self, pair: str, *, copied: bool = True) -> str:
        host, below = self._labels(pair, copied=copied)
        return f"{host} || '.' || {below} || '.{self.zone}'"

    def _reversed(self, pair: str) -> str:
        host, below = self._labels(pair)
        zone = ".".join(reversed(self.zone.split(".")))
        wildcard = "CASE WHEN t.reversed_name LIKE '%.*' THEN '.*' ELSE '' END"
        return f"'{zone}.' || {below} || '.' || {host} || {wildcard}"

    def _digest(self, pair: str) -> str:
        name = self._name(pair)
        names = f"'*.' || {name} || chr(10) || {name}" if self.wildcards else name
        return f"sha256(convert_to({names}, 'UTF8'))"

    def _renamed(self, text: str, pair: str) -> str:
        return f"replace({text}, {self._name(pair, copied=False)}, {self._name(pair)})"

    def _cause(self) -> str:
        until = f"to_char({_instant('c.not_after')}, 'YYYY-MM-DD HH24:MI')"
        stored = f"split_part(t.cause, ' until ', 1) || ' until ' || {until} || ' UTC'"
        return f"CASE t.kind WHEN 'stored' THEN {stored} ELSE {self._renamed('t.cause', 't.pair_id')} END"

    # --- serials, keys, certificates: ``of`` is the first one's row -------------------------------------------

    def _serial(self, of: str) -> str:
        """As long as the first one, so that all of a certificate is where it was."""
        drawn = f"substr(sha256({of}.serial || {_SALT}), 1, length({of}.serial))"
        return f"set_byte({drawn}, 0, 64 + get_byte({of}.serial, 0) % 64)"

    def _point(self, of: str) -> str:
        return rf"('\x04'::bytea || sha512({of}.spki || {_SALT}))"

    def _spki(self, of: str) -> str:
        head = next(iter(self.places.values())).spki
        return rf"sha256('\x{head.hex()}'::bytea || {self._point(of)})"

    def _sha256(self, of: str) -> str:
        return f"sha256({of}.sha256 || {_SALT})" if self.hashed else f"sha256({self._der(of, 'l.der')})"

    def _csr(self) -> str:
        places = next(iter(self.places.values()))
        name = f"convert_to({self._name('t.pair_id')}, 'UTF8')"
        names = [(str(at), name) for at in places.csr_names]
        return _filled("t.csr", [(str(places.csr_point), self._point("t")), *names])

    def _der(self, of: str, first: str) -> str:
        def place(number: int) -> str:
            after = " ".join(f"WHEN '{ca}' THEN {one.blanks[number]}" for ca, one in self.places.items())
            return f"length({of}.serial) + CASE {of}.ca {after} END"

        name = f"convert_to({self._name(f'{of}.pair_id')}, 'UTF8')"
        times = (_utc_time(f"{of}.not_before"), _utc_time(f"{of}.not_after"))
        many = len(next(iter(self.places.values())).blanks)
        values = [*times, self._point(of), *[name] * (many - 3)]
        places = next(iter(self.places.values()))
        blanks = [(place(number), value) for number, value in enumerate(values)]
        return _filled(first, [(str(places.serial), self._serial(of)), *blanks])


def _filled(first: str, filling: Sequence[tuple[str, str]]) -> str:
    """Places count from 0."""
    for at, value in filling:
        first = f"overlay({first} PLACING {value} FROM {at} + 1)"
    return first


def _instant(at: str) -> str:
    return f"to_timestamp(({at} + k.shift) / 1000000) AT TIME ZONE 'UTC'"


def _utc_time(at: str) -> str:
    return f"convert_to(to_char({_instant(at)}, 'YYMMDDHH24MISS\"Z\"'), 'UTF8')"
