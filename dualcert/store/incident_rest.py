"""What an incident has still to do: pairs that serve what it names, whatever a plan of it says of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, bindparam, func, select

from dualcert.store.incident_tables import incident_member
from dualcert.store.promotion import standby_usable
from dualcert.store.statements import prepared
from dualcert.store.tables import pair_state
from dualcert.store.transaction import Transaction


def _pairs_that_serve(what: Any) -> Select[Any]:
    member = incident_member.c
    served = and_(pair_state.c.pair_id == member.pair_id, pair_state.c.serving == member.certificate_id)
    query = select(what).select_from(incident_member.join(pair_state, served))
    return query.where(member.incident_id == bindparam("of_incident"))


@prepared
def _serving() -> Select[Any]:
    return _pairs_that_serve(func.count())


def serving(tx: Transaction, incident_id: int) -> int:
    """How many pairs serve a certificate that the incident names. Goes through its members."""
    return int(tx.execute(_serving(), {"of_incident": incident_id}).scalar_one())


@prepared
def _may_turn() -> Select[Any]:
    return _pairs_that_serve(pair_state.c.pair_id).where(standby_usable(bindparam("now"))).limit(1)


def may_turn(tx: Transaction, incident_id: int) -> bool:
    """Whether any of these pairs has a backup that may take over. Goes through the members up to the first."""
    return tx.execute(_may_turn(), {"of_incident": incident_id, "now": tx.at}).first() is not None
