"""Private keys go when nothing can need them any more; their public keys' hashes stay."""

from __future__ import annotations

from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.policy import retention
from dualcert.store import Transaction, events, keys
from dualcert.store.keys import EndedKey


def destroy_ended(world: World, limit: int = 500) -> int:
    """Destroy the keys of certificates that have ended, at most ``limit`` at once; how many those were.

    A key stays while a revocation of its certificate is wanted and not answered. Attempts that were given up get
    their end here as well.
    """
    with world.store.read() as tx:
        # Most looks find nothing, and hold up no writer.
        if not keys.ended_attempts(tx, 1) and not keys.ended(tx, 1):
            return 0
    with world.store.write() as tx:
        for attempt in keys.ended_attempts(tx, limit):
            keys.ends_at(tx, attempt.spki, retention.kept_until(placed=attempt.placed, now=tx.now))
        gone = keys.destroy(tx, keys.ended(tx, limit))
        for key in gone:
            _record(tx, key)
    return len(gone)


def _record(tx: Transaction, key: EndedKey) -> None:
    why = "it has no certificate"
    if key.not_after is not None:
        why = f"its certificate ended on {key.not_after:%Y-%m-%d at %H:%M} UTC"
    events.record(
        tx,
        EventKind.KEY_DESTROYED,
        f"private key of {key.spki.hex()[:16]}: {why}",
        pair=key.pair_id,
        ca=key.ca,
        certificate=key.certificate,
    )
