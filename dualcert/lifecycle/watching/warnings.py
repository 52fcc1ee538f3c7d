"""Renewal information as a forerunner: a window that is over, with a page that says why, means "will be revoked"."""

from __future__ import annotations

from datetime import timedelta

from dualcert.lifecycle.watching import suspicion
from dualcert.lifecycle.world import World
from dualcert.model.signal import Suspect, Turning
from dualcert.ports.ca import RenewalInformation
from dualcert.store import Transaction, certificates, pairs, renewal_info
from dualcert.store.renewal_info import Subject

_HOUR = timedelta(hours=1)
_SIBLINGS = 500
"""How many certificates on either side of one, in the order in which they came, are asked about next."""


def heed(world: World, tx: Transaction, subject: Subject, told: RenewalInformation) -> list[Turning]:
    """Keep the warning, if it is one, and have the CA asked about what it issued within the same hour.

    It renews the lineage, as any window does; whether more follows is for ``[watch] early`` to say: the pairs that it
    would turn are returned, none where it says nothing.
    """
    if told.explanation is None or told.end > tx.now:
        return []
    held = certificates.get(tx, subject.certificate_id)
    warning = Suspect(
        certificate_id=held.id,
        pair_id=held.pair_id,
        ca=held.ca,
        spki=held.spki,
        reason="warning",
        evidence=f"its CA wants it replaced at once, see {told.explanation}",
        url=told.explanation,
    )
    state = pairs.states(tx, [held.pair_id]).get(held.pair_id)
    turnings = suspicion.warn(tx, warning, f"renewal information of {held.ca}", state)
    renewal_info.hurry_siblings(tx, held, _SIBLINGS, held.not_before - _HOUR / 2, held.not_before + _HOUR / 2)
    return turnings if world.watch.early else []
