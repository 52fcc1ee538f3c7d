"""``dualcert incident``"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import files, tables
from dualcert.cli.context import Context
from dualcert.cli.frame import REFUSED, Argument, Group, pass_context
from dualcert.cli.incident_selecting import IncidentNumber
from dualcert.cli.output import Column, note, print_columns, print_json, print_json_lines, say
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, Refused, UsageProblem
from dualcert.model.wording import many

if TYPE_CHECKING:
    from dualcert.cli.incident_telling import Watcher
    from dualcert.lifecycle.incidents.running import Ended

_SEE = ("dualcert incident status", "docs/incidents.md")
_SHOWN_STRAYS = 20
_SHOWN_GROUPS = 20


@click.group("incident", cls=Group)
def incident() -> None:
    """Get many certificates out of service before a deadline.

    open names the certificates, plan shows what would be done, run does it wave by wave, status tells how far it is.
    What an open incident names is not promoted onto. Being named is not being revoked: closed, it is as before.
    """


_the_incident = click.argument(
    "incident_id", type=IncidentNumber(), cls=Argument, metavar="ID", help="The incident's number."
)

# --- open ------------------------------------------------------------------------------------------------

_OPEN_EXAMPLES = """
dualcert incident open --title "alpha revokes" --within 24h --ca alpha --serials serials.txt.gz
dualcert incident open --title "a CRL" --within 24h --serials alpha.crl
curl -s https://ca.example/serials.txt | dualcert incident open --title X --within 5d --ca alpha --serials -
dualcert incident open --title hour --within 5d --ca alpha --issued-between 2027-02-24T06Z 2027-02-24T07Z
"""


@incident.command("open", short_help="Name the certificates.", examples=_OPEN_EXAMPLES, see=_SEE)
@click.option("--title", required=True, help="What it is about, for the list and the history.")
@click.option("--deadline", metavar="TIME", help="Until when all of it must be out of service (RFC 3339).")
@click.option("--within", metavar="TIME", help="The same, from now on: 24h, 5d.")
@click.option(
    "--serials",
    metavar="FILE",
    shell_complete=files,
    help="Serials: hex, one a line; Let's Encrypt's form; a CRL; any of these packed by gzip; - for stdin.",
)
@click.option(
    "--ca",
    metavar="CA",
    shell_complete=tables("ca"),
    help="This CA's certificates; alone, all that are valid.",
)
@click.option(
    "--issued-between", nargs=2, metavar="A B", help="Only those whose notBefore lies between A and B."
)
@click.option(
    "--issuer",
    metavar="NAME|KEYID",
    help="Those of an issuer: its name, its key identifier, or the SHA-256 of its key, in hex.",
)
@click.option(
    "--spki-file",
    metavar="FILE",
    shell_complete=files,
    help="Public keys: the SHA-256 of each, in hex, one a line.",
)
@click.option(
    "--names",
    metavar="FILE",
    shell_complete=files,
    help="DNS names, one a line: what serves for them, or with --ca what that CA gave for them.",
)
@pass_context
def open_(
    context: Context,
    title: str,
    deadline: str | None,
    within: str | None,
    serials: str | None,
    ca: str | None,
    issued_between: tuple[str, str] | None,
    issuer: str | None,
    spki_file: str | None,
    names: str | None,
) -> None:
    """Name the certificates that must leave service, and by when.

    From now on none of them is promoted onto, and pairs that they stand by for count as unprotected. Serials belong to
    an issuer: a CRL tells it, for other files say --ca or --issuer. Lines that cannot be read are told, and the rest
    goes on; serials of others are counted.
    """
    from dualcert.cli.incident_selecting import until, wanted, words
    from dualcert.cli.incident_telling import tell_opened
    from dualcert.lifecycle import incidents
    from dualcert.lifecycle.incidents import telling

    words("--title", title)
    world = context.application.world
    end = until(world.clock.now(), deadline, within)
    with wanted(world, serials, ca, issued_between, issuer, spki_file, names) as selection:
        found = incidents.open_incident(world, title, "opened by hand", end, ca, selection)
    shown = telling.described(found)
    strays = telling.strays(world, found.id, _SHOWN_STRAYS)
    if context.json:
        print_json({**shown, "strays": strays})
    else:
        tell_opened(found, world.clock.now())
    for one in strays:
        if one["problem"] is not None:
            note(f"line {one['line']}: {one['problem']}")
    if found.unreadable:
        note(f"{many(found.unreadable, 'line')} could not be read")


# --- plan ------------------------------------------------------------------------------------------------

_PLAN_EXAMPLES = """
dualcert incident plan 1
dualcert incident plan 1 --json | jq -r .plan
"""


@incident.command(
    "plan", short_help="Show what would be done.", examples=_PLAN_EXAMPLES, exits=REFUSED, see=_SEE
)
@_the_incident
@pass_context
def plan(context: Context, incident_id: int) -> None:
    """Look at every affected pair, and write down what run is to do. Nothing else is changed.

    The hash stands for exactly these rows: which certificate serves, and which backup takes over. A newer plan makes an
    older one void.
    """
    from dualcert.lifecycle import incidents
    from dualcert.lifecycle.incidents import telling

    world = context.application.world
    made = incidents.plan(world, incident_id)
    shown = telling.planned(world, incident_id, groups=True)
    if context.json:
        print_json(shown)
        return
    say(f"incident {incident_id}: {many(shown['affected'], 'certificate is', 'certificates are')} affected")
    say(
        f"  serving: {shown['serving']}, {shown['usable']} with a usable backup and {shown['not_usable']} without"
    )
    say(f"  standing by: {shown['standby']}; neither any more: {shown['idle']}")
    say(f"  named and none of ours: {shown['unknown']}; lines that were not read: {shown['unreadable']}")
    for title, key in (("CA", "by_ca"), ("target", "by_target"), ("zone", "by_zone"), ("why not", "by_why")):
        for word, actions in islice(shown[key].items(), _SHOWN_GROUPS):
            told = ", ".join(f"{many} to {action}" for action, many in sorted(actions.items()))
            say(f"  {title} {word}: {told}")
        if len(shown[key]) > _SHOWN_GROUPS:
            say(f"  and {len(shown[key]) - _SHOWN_GROUPS} more; --json has them")
    say(f"  to carry it out: dualcert incident run {incident_id} --plan {made.hash}")


# --- run -------------------------------------------------------------------------------------------------

_RUN_EXAMPLES = """
dualcert incident run 1 --plan HASH
dualcert incident run 1 --plan HASH --waves 100%
dualcert incident run 1 --plan HASH --max-failures 5% --rate 500/s
dualcert incident run 1 --refill now         # the CA issues again: fill what was emptied there
"""
_RUN_EXITS = {
    EXIT_DONE: "All of it is promoted and was seen at its targets; or there was nothing left to do.",
    EXIT_PARTIAL: "Stopped by a limit, or because somebody closed or planned the incident meanwhile; or something is "
    "left: `status` tells what, and why.",
    **REFUSED,
}


@incident.command("run", short_help="Carry the plan out.", examples=_RUN_EXAMPLES, exits=_RUN_EXITS, see=_SEE)
@_the_incident
@click.option("--plan", "digest", metavar="HASH", help="The hash of the newest plan.")
@click.option("--waves", default="1%,10%,100%", show_default=True, help="Where each wave ends.")
@click.option(
    "--max-failures", default="1%", show_default=True, help="How many may not be seen at their targets."
)
@click.option("--max-drift", default="2%", show_default=True, help="How many may have moved since the plan.")
@click.option("--rate", metavar="N/s", help="Promote at most so many pairs a second.")
@click.option(
    "--refill", type=click.Choice(["now"]), help="Order anew what is emptied, at this incident's CA too."
)
@pass_context
def run(
    context: Context,
    incident_id: int,
    digest: str | None,
    waves: str,
    max_failures: str,
    max_drift: str,
    rate: str | None,
    refill: str | None,
) -> int:
    """Promote the backup of every affected pair, wave by wave; each wave is deployed and seen before the next.

    Every row is looked at again when its turn comes: what has moved since the plan, or has no usable backup any more,
    is skipped and told. Above a limit it stops by itself; a limit is rounded up and means at least 3. Interrupted or
    killed, the same command goes on. Pairs without a usable backup, or with one that is named, are ordered another one;
    at the incident's own CA all that is held until --refill now.
    """
    from dualcert.cli.incident_refills import release, tell_closed
    from dualcert.cli.incident_running import conclude
    from dualcert.cli.incident_selecting import per_second, percentages
    from dualcert.cli.incident_telling import Watcher
    from dualcert.lifecycle.driver import patiently
    from dualcert.lifecycle.incidents import running, telling

    world = context.application.world
    if digest is None:
        if refill is None:
            raise UsageProblem(
                "--plan is missing: the hash of the newest plan",
                remedy=f"Look at it first: dualcert incident plan {incident_id}",
            )
        release(context, incident_id)
        return EXIT_DONE
    terms = running.Terms(waves, max_failures, max_drift, per_second(rate), refill is not None)
    percentages(waves, max_failures, max_drift)
    watcher = Watcher(context, incident_id)
    ended = patiently(world, 60.0, lambda: _carry_out(context, incident_id, digest, terms, watcher))
    shown = patiently(world, 60.0, lambda: telling.status(world, incident_id))
    tell_closed(world, ended.refills)
    return conclude(shown, ended, world.clock.now(), heard=watcher.heard, as_json=context.json)


def _carry_out(context: Context, incident_id: int, digest: str, terms: Any, watcher: Watcher) -> Ended:
    from dualcert.lifecycle.incidents import running

    try:
        return running.run(context.application.world, incident_id, digest, terms, watcher)
    except Refused as refused:
        # Begun anew, because the database had gone away: what was done before that stands.
        if not watcher.heard:
            raise
        return running.Ended(True, refused.reason, overtaken=True)


# --- looking ---------------------------------------------------------------------------------------------

_STATUS_EXAMPLES = """
dualcert incident status 1
dualcert incident status 1 --json | jq '.stuck'
"""


@incident.command("status", short_help="Tell how far it is.", examples=_STATUS_EXAMPLES, see=_SEE)
@_the_incident
@pass_context
def status(context: Context, incident_id: int) -> None:
    """Tell how far an incident is: from affected to promoted, deployed, observed and protected again; what is stuck,
    and why."""
    from dualcert.cli.incident_telling import tell_status
    from dualcert.lifecycle.incidents import telling

    world = context.application.world
    shown = telling.status(world, incident_id)
    print_json(shown) if context.json else tell_status(shown, world.clock.now())


_LIST_COLUMNS = (
    Column("ID", 4, right=True),
    Column("OPENED", 20),
    Column("DEADLINE", 20),
    Column("CLOSED", 20),
    Column("MEMBERS", 8, right=True),
    Column("TITLE"),
)


@incident.command("list", short_help="List the incidents.", examples="\ndualcert incident list\n", see=_SEE)
@pass_context
def list_(context: Context) -> None:
    """List the incidents, the newest first."""
    from dualcert.lifecycle.incidents import telling

    found = telling.listed(context.application.world)
    if context.json:
        print_json_lines(found)
        return
    keys = ("id", "opened_at", "deadline", "closed_at", "members", "title")
    rows = ([_to_the_second(one[key]) for key in keys] for one in found)
    print_columns(_LIST_COLUMNS, rows)


def _to_the_second(value: Any) -> Any:
    return value.replace(microsecond=0) if hasattr(value, "microsecond") else value


# --- its end ---------------------------------------------------------------------------------------------


@incident.command(
    "close", short_help="End it.", examples="\ndualcert incident close 1\n", exits=REFUSED, see=_SEE
)
@_the_incident
@pass_context
def close(context: Context, incident_id: int) -> None:
    """End an incident: it names nothing any more, and refills that were held for it are due, unless another open one
    holds at that CA, too. What it named may stand by again where nothing else is against it.

    What was promoted stays so; the way back is undo. What compromise has named and has left service is blocked and
    revoked, and does not come back.
    """
    from dualcert.lifecycle import incidents
    from dualcert.lifecycle.incidents import telling

    world = context.application.world
    found = incidents.close(world, incident_id)
    if context.json:
        print_json(telling.described(found))
    else:
        say(f"incident {incident_id} is closed")


@incident.command(
    "undo",
    short_help="Go back, after a false alarm.",
    examples="\ndualcert incident undo 1\n",
    exits={
        EXIT_PARTIAL: "Some pairs stay as they are, and report tells why; or were not seen at their targets.",
        **REFUSED,
    },
    see=_SEE,
)
@_the_incident
@pass_context
def undo(context: Context, incident_id: int) -> int:
    """Turn back what a closed incident has promoted, where what served before may serve again.

    A certificate that is revoked, expired or named by another incident is not gone back to; nor is a pair touched that
    somebody has changed since. While the incident is open this is refused.
    """
    from dualcert.lifecycle.incidents import telling, undoing

    world = context.application.world
    turned, stayed, unseen = undoing.undo(world, incident_id)
    if context.json:
        print_json({**telling.status(world, incident_id), "undone": turned, "stayed": stayed})
    else:
        say(f"incident {incident_id}: {many(turned, 'pair')} went back, {many(stayed, 'stays', 'stay')}")
    if unseen:
        note(f"{many(unseen, 'pair was', 'pairs were')} not seen at their targets")
    return EXIT_PARTIAL if stayed or unseen else EXIT_DONE


_REPORT_EXAMPLES = """
dualcert incident report 1 --format md > report.md
dualcert incident report 1 --format csv > certificates.csv
"""


@incident.command("report", short_help="Write it down.", examples=_REPORT_EXAMPLES, see=_SEE)
@_the_incident
@click.option(
    "--format",
    "form",
    type=click.Choice(["md", "json", "csv"]),
    default="md",
    show_default=True,
    help="md: for people; csv: a line for each certificate; json: both.",
)
@pass_context
def report(context: Context, incident_id: int, form: str) -> None:
    """Write down what became of every affected certificate, and how long it took.

    Old and new serial, and when it was promoted, seen (wire: by a handshake), revoked and replaced; when 50, 90 and
    100 % had got so far; the head of the sealed history.
    """
    from dualcert.cli import incident_telling
    from dualcert.lifecycle.incidents import telling

    world = context.application.world
    lines = telling.affected(world, incident_id)
    if form == "csv" and not context.json:
        incident_telling.write_csv(telling.COLUMNS, lines)
    elif form == "json" or context.json:
        incident_telling.write_json(telling.summary(world, incident_id), lines)
    else:
        incident_telling.write_markdown(telling.summary(world, incident_id), telling.COLUMNS, lines)
