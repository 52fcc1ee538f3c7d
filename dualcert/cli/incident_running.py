"""What ``dualcert incident run`` tells at its end, and with which exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dualcert.cli.incident_telling import tell_status, told_unplanned
from dualcert.cli.output import note, print_json
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL
from dualcert.model.wording import many

if TYPE_CHECKING:
    from datetime import datetime

    from dualcert.lifecycle.incidents.running import Ended


def conclude(shown: dict[str, Any], ended: Ended, now: datetime, *, heard: bool, as_json: bool) -> int:
    """``heard``: whether this command has come to anything, be it before the database went away."""
    if as_json:
        print_json(shown)
        for line in told_unplanned(shown):
            note(line)
    else:
        tell_status(shown, now, stopped=ended.stopped is None)
    if ended.stopped is not None:
        note(f"stopped: {ended.stopped}")
        if ended.overtaken:
            note(_what_stands(shown))
        return EXIT_PARTIAL
    if not ended.done and not heard:
        rest = f"refills are due at {', '.join(ended.refills)}" if ended.refills else "nothing was done"
        note(f"this plan was carried out before; {rest}")
        return EXIT_PARTIAL if shown["pairs"]["unplanned"] else EXIT_DONE
    # What was skipped, or had no backup, may have left by a failover or a renewal: what serves is what counts.
    left = shown["promoted"] - shown["observed"] + shown["pairs"]["served"]
    return EXIT_PARTIAL if left else EXIT_DONE


def _what_stands(shown: dict[str, Any]) -> str:
    """Of a run that cannot be gone on with: what it has changed is there, and goes on without it."""
    promoted = many(shown["promoted"], "pair is promoted", "pairs are promoted")
    unseen = shown["promoted"] - shown["observed"]
    if not shown["promoted"]:
        return "  no pair is promoted; backups were ordered anew"
    if not unseen:
        return f"  {promoted}, and all of that was seen"
    return (
        f"  {promoted}, {unseen} of them not yet seen: dualcert renew --due, or the daemon, goes on with that"
    )
