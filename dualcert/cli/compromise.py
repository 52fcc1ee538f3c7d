"""``dualcert compromise``"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import pairs, tables
from dualcert.cli.context import Context
from dualcert.cli.frame import Argument, Command, pass_context
from dualcert.cli.output import note, print_json_lines, say
from dualcert.cli.progress import drive, duration, moment, timeout_option, until
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, EXIT_REFUSED, UsageProblem
from dualcert.model.wording import many

if TYPE_CHECKING:
    from dualcert.lifecycle.compromise import Containment
    from dualcert.lifecycle.leaked import Leak
    from dualcert.lifecycle.reach import Extent
    from dualcert.lifecycle.world import World
    from dualcert.store.compromise import Held

_TOGETHER = 100  # more pairs than that are driven with all others
_NAMED = 20
_LARGEST = 1 << 20
_OTHERWISE = "Without it, the time that was said first stands."

_EXAMPLES = """
dualcert compromise example.com                        # the key that serves there
dualcert compromise --key found-on-a-paste-site.pem    # whose key is this? away with it
dualcert compromise --target web --since 3d --dry-run  # all that was on that server in three days
dualcert compromise --domain primary                   # a KEK, or a copy of it, is in other hands
"""
_EXITS = {
    EXIT_DONE: "Everything that used the key is replaced and revoked; or so it was already.",
    EXIT_PARTIAL: "Something is not finished, or an incident was opened; the same command goes on.",
    EXIT_REFUSED: "Another process is at the same domain or account.",
}


@click.command(
    "compromise",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert failover", "dualcert incident", "docs/compromise.md"),
)
@click.argument(
    "name",
    cls=Argument,
    metavar="[NAME]",
    required=False,
    shell_complete=pairs,
    help="The pair whose key leaked: the one that serves, or with --role backup the other one.",
)
@click.option("--role", type=click.Choice(["primary", "backup"]), help="With NAME: which of its two keys.")
@click.option("--spki", metavar="HEX", help="The SHA-256 of the public key (SubjectPublicKeyInfo), as hex.")
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(),
    help="A private key in PEM. Only its public key's hash is used.",
)
@click.option("--cert", metavar="FILE", type=click.Path(), help="A certificate with the key, PEM or DER.")
@click.option(
    "--target", metavar="T", shell_complete=tables("target"), help="All keys that were at this target."
)
@click.option(
    "--since", metavar="TIME", help="With --target: that were there since then; 3d, or 2026-03-01T12:00Z."
)
@click.option(
    "--domain",
    metavar="KEYS",
    shell_complete=tables("keys"),
    help="All keys of an isolation domain, accounts' too.",
)
@click.option(
    "--again",
    is_flag=True,
    help="With NAME, --target or --domain: it leaked anew, after an earlier leak was done with.",
)
@click.option(
    "--revoke-by",
    default="24h",
    show_default=True,
    metavar="TIME",
    help="When it is revoked although it still serves: so long from now, or a time. Said again, it gives no more time.",
)
@click.option("--dry-run", is_flag=True, help="List all that is concerned, and what would become of it.")
@timeout_option()
@pass_context
def compromise(
    context: Context,
    name: str | None,
    role: str | None,
    spki: str | None,
    key: str | None,
    cert: str | None,
    target: str | None,
    since: str | None,
    domain: str | None,
    again: bool,
    revoke_by: str,
    dry_run: bool,
    timeout: str,
) -> int:
    """Get everything that used a leaked key out of service, revoked and replaced.

    Certificates (replaced ones that have not expired, too), orders under way and accounts are found by the key, by
    where it lay, or by the KEK that wraps it. Pairs that serve under it are failed over and looked at; then the
    certificates are revoked with keyCompromise, signed by their own keys, so that the CA blocks these for everybody.
    They are never used again, and emptied lineages are filled under new ones. A pair without a usable backup is
    ordered anew at once, and revoked when the new certificate serves, or at --revoke-by.

    Of a domain the KEK is replaced first, and the keys of its accounts are rolled over. Where more than 100 pairs
    would turn, or more than 10 that are more than 5 % of all, an incident is opened instead: plan and run it, then
    say the same command again. Said twice it changes nothing more: NAME and --target go on meaning the keys that they
    meant first, for an hour and as long as anything is left to do; --again means those that have their place now.
    """
    from dualcert.lifecycle import compromise as leaks
    from dualcert.lifecycle import reach as concerned

    seconds = duration(timeout)
    world = context.application.world
    within = until(revoke_by, "--revoke-by", world.clock.now(), _OTHERWISE)
    leak = _leak(world, name, role, spki, key, cert, target, since, domain, again)
    leak = replace(leak, revoke_within=within, revoke_at=_at(revoke_by))
    reach = concerned.extent(world, leak)
    if not reach.known:
        raise UsageProblem(
            f"no key of ours has the hash {leak.key.hex() if leak.key else ''}",
            remedy="Nothing was changed: no certificate, order or account here ever used it.",
        )
    if dry_run:
        return _foretell(context, leak, reach)
    result = leaks.contain(world, leak)
    _drive(context, result, seconds)
    return _conclude(context, leak, result)


# --- what leaked -----------------------------------------------------------------------------------------


def _leak(
    world: World,
    name: str | None,
    role: str | None,
    spki: str | None,
    key: str | None,
    cert: str | None,
    target: str | None,
    since: str | None,
    domain: str | None,
    again: bool,
) -> Leak:
    from dualcert.lifecycle import inventory, leaked

    if sum(one is not None for one in (name, spki, key, cert, target, domain)) != 1:
        raise UsageProblem(
            "say one of NAME, --spki, --key, --cert, --target and --domain",
            remedy="See `dualcert compromise --help`.",
        )
    if (since and not target) or (role and not name) or (again and not (name or target or domain)):
        raise UsageProblem(
            "--since belongs to --target, --role to NAME, --again to NAME, --target or --domain",
            remedy="Leave it out: a key that is named by itself is taken as leaked whenever that is said."
            if again and not (since or role)
            else "Leave it out, or say what it belongs to; see `dualcert compromise --help`.",
        )
    if name is not None:
        leak = leaked.of_pair(world, inventory.resolve(world, name), role or "primary", again=again)
    elif domain is not None:
        leak = leaked.of_domain(world, domain, again=again)
    elif target is not None:
        if target not in world.targets:
            raise UsageProblem(
                f"there is no target {target!r}", remedy=f"There is: {', '.join(sorted(world.targets))}."
            )
        leak = leaked.of_target(world, target, since, lambda now: _instant(since or "", now), again=again)
    else:
        found = _hash(spki, key, cert)
        leak = leaked.Leak(f"key {found.hex()}", key=found)
    if leak.before is not None:
        note(
            f"this goes on with the leak that was told at {leak.before:%Y-%m-%d %H:%M} UTC; "
            "keys that have come since then are not touched. If they leaked, too: --again"
        )
    return leak


def _hash(spki: str | None, key: str | None, cert: str | None) -> bytes:
    from dualcert.lifecycle import leaked

    if key is not None:
        return leaked.spki_of_private_key(_content(key), key)
    if cert is not None:
        return leaked.spki_of_certificate(_content(cert), cert)
    text = (spki or "").replace(":", "").strip()
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise UsageProblem(
            "--spki takes a SHA-256 as 64 hexadecimal digits",
            remedy="For a certificate in a file say --cert FILE, for a private key --key FILE.",
        )
    return found


def _content(file: str) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            return opened.read(_LARGEST)
    except OSError as error:
        raise UsageProblem(
            f"{file} cannot be read: {error.strerror}", remedy="Name a file that this user can read."
        ) from None


def _at(text: str) -> datetime | None:
    """The instant that a text says; None where it says how long from now."""
    try:
        return moment(text)
    except ValueError:
        return None


def _instant(text: str, now: datetime) -> datetime:
    """``3d``: so long ago; otherwise a date, or a date with a time, in UTC unless it says otherwise."""
    try:
        return moment(text)
    except ValueError:
        remedy = "Write it like 3d or 2026-03-01T12:00Z."
        return now - timedelta(seconds=duration(text, "--since", remedy=remedy))


# --- looking ahead ---------------------------------------------------------------------------------------


def _foretell(context: Context, leak: Leak, reach: Extent) -> int:
    from dualcert.lifecycle import compromise as leaks
    from dualcert.lifecycle import reach as concerned

    world = context.application.world
    if context.json:
        print_json_lines(_foretold(world, leak, reach))
        return EXIT_DONE
    alive = many(
        len(reach.certificates), "certificate that has not expired", "certificates that have not expired"
    )
    say(f"{leak.described}: {alive}")
    held = leaks.may_turn(world, leak, reach)
    for one in concerned.held(world, reach.certificates):
        say(f"  {_about(one)}: {leaks.foretold(world, reach, one)}")
    for attempt in reach.attempts:
        say(f"  an order under way at {attempt.ca}: given up, and placed again under another key")
    for ca in leaks.to_roll(world, leak, reach):
        say(f"  the account at {ca}: its key is rolled over")
    if leak.domain is not None and leaks.told_anew(leak):
        say(f"  {leak.domain}: gets a new KEK first")
    if held is not None:
        say(f"an incident would be opened, and no pair turn by itself: {held}")
    say("nothing was changed")
    return EXIT_DONE


def _foretold(world: World, leak: Leak, reach: Extent) -> Iterator[dict[str, Any]]:
    from dualcert.lifecycle import compromise as leaks
    from dualcert.lifecycle import reach as concerned

    for one in concerned.held(world, reach.certificates):
        yield {**_shown(one), "would": leaks.foretold(world, reach, one)}
    accounts = leaks.to_roll(world, leak, reach)
    for ca in accounts:
        yield {"account": ca, "would": "its key is rolled over"}
    yield {
        "compromised": leak.described,
        "certificates": len(reach.certificates),
        "orders": len(reach.attempts),
        "promoted": None,
        "ordered": None,
        "accounts": accounts,
        "incident": None,
        "brake": leaks.may_turn(world, leak, reach),
        "problems": [],
        "dry_run": True,
    }


def _about(one: Held) -> str:
    role = one.role or "replaced"
    return f"{one.pair}: {one.certificate.ca}, serial {one.certificate.serial.hex()} ({role})"


def _shown(one: Held) -> dict[str, Any]:
    subject = one.certificate
    return {
        "pair": one.pair,
        "ca": subject.ca,
        "serial": subject.serial,
        "role": one.role,
        "not_after": subject.not_after,
        "revoked": one.revoked,
        "blocked": one.blocked,
    }


# --- doing it, and telling -------------------------------------------------------------------------------


def _drive(context: Context, result: Containment, seconds: float) -> None:
    """Until nothing more comes by itself. What is stored meanwhile may be what a pair can be moved to."""
    from dualcert.lifecycle import compromise as leaks
    from dualcert.lifecycle import reach as concerned
    from dualcert.lifecycle.driver import Scope

    world = context.application.world
    if result.incident is not None:
        return
    ids = {one.certificate.pair_id for one in concerned.held(world, result.extent.certificates)}
    ids |= {one.pair_id for one in result.extent.attempts}
    if not ids:
        return
    scope = Scope(frozenset(ids) if len(ids) <= _TOGETHER else None)
    until = world.clock.monotonic() + seconds
    while True:
        drive(context, scope, max(0.0, until - world.clock.monotonic()))
        if not leaks.go_on(world, result) or world.clock.monotonic() >= until:
            return


def _conclude(context: Context, leak: Leak, result: Containment) -> int:
    from dualcert.lifecycle import reach as concerned

    world = context.application.world
    if result.incident is None:
        result.problems += concerned.unfinished(world, result.extent)
    if context.json:
        print_json_lines(_told(world, leak, result))
    else:
        _tell(leak, result)
    for problem in result.problems[:_NAMED]:
        note(problem)
    if len(result.problems) > _NAMED:
        note(f"and {len(result.problems) - _NAMED} more; the same command goes on")
    return EXIT_PARTIAL if result.problems or result.incident is not None else EXIT_DONE


def _told(world: World, leak: Leak, result: Containment) -> Iterator[dict[str, Any]]:
    from dualcert.lifecycle import reach as concerned

    for one in concerned.held(world, result.extent.certificates):
        yield _shown(one)
    yield {
        "compromised": leak.described,
        "certificates": len(result.extent.certificates),
        "orders": len(result.extent.attempts),
        "promoted": result.promoted,
        "ordered": result.ordered,
        "accounts": result.rolled,
        "incident": None if result.incident is None else result.incident.id,
        "brake": result.held,
        "problems": result.problems,
        "dry_run": False,
    }


def _tell(leak: Leak, result: Containment) -> None:
    say(f"{leak.described}: {many(len(result.extent.certificates), 'certificate')} that had not expired")
    for ca in result.rolled:
        say(f"  the account at {ca} has another key")
    if result.incident is not None:
        number = result.incident.id
        say(f"  incident {number} was opened, and no pair has turned: {result.held}")
        say(f"  next: dualcert incident plan {number}; run it, then say this again")
        return
    if result.promoted:
        say(f"  {many(result.promoted, 'pair was moved to its backup', 'pairs were moved to their backups')}")
    if result.ordered:
        ordered = many(
            result.ordered, "pair had no usable backup, and was", "pairs had no usable backup, and were"
        )
        say(f"  {ordered} ordered anew")
    if not result.problems:
        say("  all of it is replaced, revoked and blocked")
