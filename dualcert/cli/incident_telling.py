"""What ``dualcert incident`` prints."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dualcert.cli.context import Context
from dualcert.cli.output import cell, note, say, to_json, write
from dualcert.model.wording import many

if TYPE_CHECKING:
    from dualcert.lifecycle.incidents.running import Progress
    from dualcert.model.incident import Incident

_FUNNEL = ("promoted", "deployed", "observed", "protected")
_SECONDS = 1.0


class Watcher:
    """Tells on a terminal how a run goes; in a pipe it is quiet."""

    def __init__(self, context: Context, incident_id: int) -> None:
        self._wanted = sys.stderr.isatty() and not context.json
        self._clock = context.application.world.clock
        self._id = incident_id
        self._began = self._told = self._clock.monotonic()
        self._first: int | None = None

    @property
    def heard(self) -> bool:
        """Whether this command has come to anything, be it before the database went away and it began anew."""
        return self._first is not None

    def __call__(self, progress: Progress) -> None:
        if self._first is None:
            self._first = progress.turned
        now = self._clock.monotonic()
        last = progress.seen >= progress.total
        if not self._wanted or (now - self._told < _SECONDS and not last):
            return
        self._told = now
        rate = (progress.turned - self._first) / max(now - self._began, 0.001)
        left = f", {_time((progress.total - progress.turned) / rate)} left" if rate > 0 else ""
        note(
            f"  wave {progress.wave} of {progress.waves}: {progress.turned} of {progress.total} had their turn, "
            f"{progress.seen} seen; {rate:.0f}/s{left}; deadline {_rest(progress.deadline, self._clock.now())}"
        )


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _rest(deadline: datetime, now: datetime) -> str:
    rest = timedelta(seconds=round((deadline - now).total_seconds()))
    return f"in {rest}" if rest >= timedelta(0) else f"PASSED {-rest} ago"


def clock(deadline: datetime, now: datetime) -> str:
    """How long it is until the deadline, or since."""
    return f"{deadline:%Y-%m-%d %H:%M} UTC, {_rest(deadline, now)}"


def tell_opened(found: Incident, now: datetime) -> None:
    """For people."""
    named = many(found.members, "certificate of ours is", "certificates of ours are")
    say(f"incident {found.id} is open: {named} named")
    foreign = many(found.unknown, "serial or name is", "serials or names are")
    say(f"  deadline {clock(found.deadline, now)}; {foreign} none of ours")
    if found.members:
        say(f"  next: dualcert incident plan {found.id}")
    else:
        say(f"  if that is not what was meant: dualcert incident close {found.id}, and open another one")


def tell_status(shown: dict[str, Any], now: datetime, *, stopped: bool = True) -> None:
    """For people. ``stopped``: with the reason why the run of it has stopped, where nobody else tells that."""
    say(f"incident {shown['id']}: {shown['title']}")
    say(f"  deadline   {clock(shown['deadline'], now)}" if shown["closed_at"] is None else "  closed")
    say(f"  affected   {shown['affected']} ({shown['serving']} serve, {shown['standby']} stand by)")
    counted = shown["pairs"]
    for step in _FUNNEL:
        # A pair that was promoted serves what is named no more: a newer plan does not count it among these.
        of = counted["concerned"] if step == "protected" else counted["leaving"] - counted["otherwise"]
        say(f"  {step:<9}  {shown[step]} of {of}")
    if counted["otherwise"]:
        which = many(counted["otherwise"], "more pair has", "more pairs have")
        say(f"  otherwise  {which} left what is named, by a failover or a renewal, without a run")
    say(
        f"  skipped    {shown['skipped']}; failed {shown['failed']}; without a usable backup {shown['not_usable']}"
    )
    if shown["plan"] is None and shown["closed_at"] is None:
        say(f"  {_without_plan(shown)}")
    if stopped and shown["run"] is not None and shown["run"]["stopped"]:
        say(f"  stopped: {shown['run']['stopped']}")
    if shown["refills_held_at"]:
        held = ", ".join(shown["refills_held_at"])
        say(f"  refills are held at {held}: dualcert incident run {shown['id']} --refill now")
    for line in (*_told_of_plan(shown), *told_unplanned(shown)):
        say(f"  {line}")
    for one in shown["stuck"]:
        say(f"  {one['pair']}: {one['state']}: {one['reason']}")


def _without_plan(shown: dict[str, Any]) -> str:
    if shown["loading"]:
        again = f"if nobody is at it: dualcert incident close {shown['id']}, and open it again"
        return f"it is being opened, or that was interrupted; {again}"
    return f"no plan is complete: dualcert incident plan {shown['id']}"


def _to_be_run(shown: dict[str, Any]) -> bool:
    """Whether the newest plan has anything that is still to be carried out."""
    run = shown["run"]
    through = run is not None and run["ended_at"] is not None
    return shown["closed_at"] is None and shown["plan"] is not None and not through


def _told_of_plan(shown: dict[str, Any]) -> list[str]:
    """How the newest plan is carried out, or gone on with, as long as it is not through."""
    if not _to_be_run(shown) or not shown["serving"] + shown["standby"]:
        return []
    if shown["run"] is not None and "incident plan" in (shown["run"]["stopped"] or ""):
        return []  # it says that another plan is wanted
    what = "to carry it out" if shown["run"] is None else "to go on with it"
    return [f"{what}: dualcert incident run {shown['id']} --plan {shown['plan']}"]


def told_unplanned(shown: dict[str, Any]) -> list[str]:
    """What came to be served by what is named after the newest plan was made, and what to type then."""
    number = shown["pairs"]["unplanned"]
    if not number:
        return []
    which = many(number, "pair is", "pairs are")
    # A newer plan ends the run of this one.
    then = "; once it is carried out" if _to_be_run(shown) else ""
    said = f"{which} served by what is named, and not in the plan for that{then}"
    return [f"{said}: dualcert incident plan {shown['id']}"]


# --- reports -----------------------------------------------------------------------------------------------


class _Stdout:
    """What csv writes to."""

    def write(self, text: str) -> int:
        write(text)
        return len(text)


def write_csv(columns: Sequence[str], lines: Iterable[dict[str, Any]]) -> None:
    """A header, and one line a certificate; what is not there is empty."""
    out = csv.writer(_Stdout(), lineterminator="\n")
    out.writerow(columns)
    for line in lines:
        out.writerow(["" if line[name] is None else cell(line[name]) for name in columns])


def write_json(summary: dict[str, Any], lines: Iterable[dict[str, Any]]) -> None:
    """The summary, and with it the certificates one by one as they come."""
    _note_unsealed(summary)
    write(to_json(summary)[:-1] + ', "certificates": [')
    for number, line in enumerate(lines):
        write((", " if number else "") + to_json(line))
    write("]}\n")


def _note_unsealed(summary: dict[str, Any]) -> None:
    """The report is for others; who writes it should know at once."""
    if summary["unsealed"] is not None:
        what = "without a signed head" if summary["sealed"] is None else "with an older head"
        note(f"the report is {what} of the history: {summary['unsealed']}")


def write_markdown(summary: dict[str, Any], columns: Sequence[str], lines: Iterable[dict[str, Any]]) -> None:
    """A page for people."""
    _note_unsealed(summary)
    say(f"# Incident {summary['id']}: {summary['title']}\n")
    say(f"Opened {cell(summary['opened_at'])}, deadline {cell(summary['deadline'])}.\n")
    say("| what | how many |\n|---|---|")
    for key in ("affected", "serving", "standby", "usable", "not_usable", *_FUNNEL, "skipped", "failed"):
        say(f"| {key.replace('_', ' ')} | {summary[key]} |")
    say("\n| after the opening | 50 % | 90 % | 100 % |\n|---|---|---|---|")
    for step, times in summary["seconds_to"].items():
        told = ["-" if one is None else _time(one) for one in times.values()]
        say(f"| {step} | {' | '.join(told)} |")
    head = summary["sealed"]
    if head is not None:
        say(
            f"\nSealed history: seal {head['no']} up to event {head['last_id']}, SHA-256 {head['digest']}. "
            "This line, signed (docs/audit.md says how it is verified):\n"
        )
        say(f"    {to_json(head)}")
    if summary["unsealed"] is not None:
        missing = (
            "No signed head of the history" if head is None else "That head is older than what happened last"
        )
        say(f"\n{missing}: {summary['unsealed']}.")
    say(f"\n| {' | '.join(column.replace('_', ' ') for column in columns)} |\n|{'---|' * len(columns)}")
    for line in lines:
        say(f"| {' | '.join(cell(line[name]).replace('|', '/') for name in columns)} |")
