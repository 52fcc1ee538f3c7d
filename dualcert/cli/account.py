"""``dualcert account``"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import tables
from dualcert.cli.context import Context
from dualcert.cli.frame import REFUSED, Argument, Group, pass_context
from dualcert.cli.output import agreed, cell, note, print_json, print_json_lines, say
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, EXIT_REFUSED, Refused, UsageProblem

if TYPE_CHECKING:
    from dualcert.lifecycle.accountcare import Tended


@click.group("account", cls=Group)
def account() -> None:
    """Look at the accounts at CAs, and look after them.

    A CA's account is made at the first order there. Its key lies in the database, encrypted under the KEK of the CA's
    isolation domain; CA is the name of a [ca.NAME] table.
    """


_the_ca = click.argument(
    "ca", cls=Argument, metavar="CA", shell_complete=tables("ca"), help="The name of a [ca.NAME]."
)
_SEE = ("dualcert account show", "docs/accounts.md")

_SHOW_EXAMPLES = """
dualcert account show
dualcert account show alpha --json
"""


@account.command(
    "show",
    examples=_SHOW_EXAMPLES,
    exits={EXIT_PARTIAL: "A CA could not be asked; what is recorded is shown all the same."},
    see=("dualcert check", "docs/accounts.md"),
)
@click.argument(
    "ca",
    cls=Argument,
    metavar="[CA]",
    required=False,
    shell_complete=tables("ca"),
    help="The name of a [ca.NAME]. Unsaid: all of them.",
)
@pass_context
def show(context: Context, ca: str | None) -> int:
    """Show an account, or all of them: what is recorded, and what the CA says of it now.

    Nothing is registered by looking. Status: valid, deactivated or revoked, as the CA tells it; unknown where it does
    not know the account, refused where it lets it ask nothing. For a CAA record with accounturi, take the URL.
    """
    from dualcert.lifecycle import accountcare

    world = context.application.world
    bindings = [accountcare.configured(world, ca)] if ca else list(world.cas.values())
    views = [accountcare.describe(world, one) for one in bindings]
    if context.json:
        print_json(views[0]) if ca else print_json_lines(views)
    for view in views:
        if not context.json:
            _tell(view)
        problem = accountcare.problems_of(view)
        if problem is not None:
            note(str(problem))
    return EXIT_DONE if all(view["reached"] for view in views) else EXIT_PARTIAL


def _tell(view: dict[str, Any]) -> None:
    say(f"{view['ca']}: {view['status'] or ('recorded' if view['url'] else 'no account yet')}")
    lines = {
        "directory": view["directory"],
        "url": view["url"],
        "contact": ", ".join(view["contact"] or []) or ("the CA tells none" if view["status"] else None),
        "keys": view["domain"],
        "key": view["key_thumbprint"] and f"{view['key_thumbprint']} (thumbprint)",
        "": view["spki_sha256"] and f"{view['spki_sha256'].hex()} (SHA-256 of the public key)",
        "key change": view["key_change"] and f"under way: dualcert account rollover {view['ca']} finishes it",
        "created": view["created_at"],
        "deactivated": view["deactivated_at"],
        "CAA": ", ".join(view["caa_identities"]) or None,
        "terms": view["terms_of_service"],
        "profiles": ", ".join(view["profiles"] or []) or None,
    }
    for title, value in lines.items():
        if value is not None:
            say(f"  {title:<11}  {cell(value)}")
    if view["contact_sent"] is not None and view["contact_sent"] != view["contact_configured"]:
        say(f"  The configuration names another contact by now: dualcert account update {view['ca']}")


_UPDATE_EXAMPLES = """
dualcert account update alpha
"""


@account.command(
    "update", short_help="Send the configured contact to the CA.", examples=_UPDATE_EXAMPLES, see=_SEE
)
@_the_ca
@pass_context
def update(context: Context, ca: str) -> None:
    """Send the contact that the configuration names to the CA.

    Orders at this CA that wait for a person are placed again at the next run: say this after you have agreed to new
    terms, or have done what else the CA asked for.
    """
    from dualcert.lifecycle import accountcare

    world = context.application.world
    binding = accountcare.configured(world, ca)
    tended = accountcare.update(world, binding)
    if context.json:
        print_json({"ca": ca, "url": tended.url, "contact": list(binding.contact), "woken": tended.woken})
    else:
        say(f"{ca}: the CA has the contact {', '.join(binding.contact) or '(none)'}")
        _tell_woken(tended)


_ROLLOVER_EXAMPLES = """
dualcert account rollover alpha
dualcert account rollover alpha --now   # the key has leaked: orders under way are no reason to wait
"""
_ROLLOVER_EXITS = {EXIT_REFUSED: "Refused: orders are between their challenges, and --now was not said."}


@account.command(
    "rollover",
    short_help="Give the account a new key.",
    examples=_ROLLOVER_EXAMPLES,
    exits=_ROLLOVER_EXITS,
    see=_SEE,
)
@_the_ca
@click.option("--now", is_flag=True, help="Even if orders under way fail by it; they are placed again.")
@pass_context
def rollover(context: Context, ca: str, now: bool) -> None:
    """Give the account a new key (RFC 8555 section 7.3.5); the old one is forgotten.

    The new key is stored before the CA hears of it, and counts once the CA has answered a request that it signed. If
    the command is interrupted, say it again, or leave it: whoever needs the account next finishes it. Certificates, and
    other dualcert processes, are not concerned.
    """
    from dualcert.lifecycle import accountcare

    world = context.application.world
    before, after = accountcare.rollover(world, accountcare.configured(world, ca), now=now)
    if context.json:
        print_json(
            {
                "ca": ca,
                "url": after.url,
                "spki_sha256": after.key.spki,
                "previous_spki_sha256": before.key.spki,
            }
        )
    else:
        say(f"{ca}: a new key signs for {after.url}, and the CA has answered to it")
        say(f"  {after.key.spki.hex()} in place of")
        say(f"  {before.key.spki.hex()}")


_DEACTIVATE_EXAMPLES = """
dualcert account deactivate alpha
dualcert account deactivate alpha --yes
"""


@account.command(
    "deactivate",
    short_help="End the account for good.",
    examples=_DEACTIVATE_EXAMPLES,
    exits=REFUSED,
    see=_SEE,
)
@_the_ca
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def deactivate(context: Context, ca: str, yes: bool) -> None:
    """End the account at the CA for good (RFC 8555 section 7.3.6).

    Its certificates stay valid until they expire, but nothing is ordered or renewed there any more, and the account
    can revoke none of them: only their own keys can (--reason keyCompromise). The way back is a new account:
    dualcert account register CA.
    """
    from dualcert.lifecycle import accountcare

    world = context.application.world
    binding = accountcare.configured(world, ca)
    if not yes:
        _ask(ca, accountcare.used_by(world, binding))
    url = accountcare.deactivate(world, binding)
    if context.json:
        print_json({"ca": ca, "url": url, "status": "deactivated"})
    else:
        say(f"{ca}: the account {url} is deactivated; nothing is ordered there any more")
        say(f"  a new one: dualcert account register {ca}")


def _ask(ca: str, pairs: int) -> None:
    if not sys.stdin.isatty():
        raise UsageProblem(
            "an account that was deactivated never comes back, and nobody is there to be asked",
            remedy=f"If you are sure: dualcert account deactivate {ca} --yes",
            ca=ca,
        )
    whom = "1 pair has" if pairs == 1 else f"{pairs or 'no'} pairs have"
    note(f"{whom} certificates from {ca}. They stay valid, but are not renewed there. This cannot be undone.")
    if not agreed("Deactivate the account?"):
        raise Refused("the account is left as it is", ca=ca)


_REGISTER_EXAMPLES = """
dualcert account register alpha
"""


@account.command(
    "register", short_help="Make an account where there is none.", examples=_REGISTER_EXAMPLES, see=_SEE
)
@_the_ca
@pass_context
def register(context: Context, ca: str) -> None:
    """Make an account at the CA where there is none that may be used; nothing is changed where there is one.

    The first order at a CA makes its account by itself. This is for making it before, and for a new one in place of one
    that was deactivated. Orders at this CA that wait for a person are placed again at the next run.
    """
    from dualcert.lifecycle import accountcare

    world = context.application.world
    tended = accountcare.register(world, accountcare.configured(world, ca))
    if context.json:
        print_json({"ca": ca, "url": tended.url, "registered": tended.changed, "woken": tended.woken})
    else:
        say(f"{ca}: {'registered' if tended.changed else 'the CA knows the account'}: {tended.url}")
        _tell_woken(tended)


def _tell_woken(tended: Tended) -> None:
    if tended.woken:
        many = (
            f"{tended.woken} orders that had waited are" if tended.woken > 1 else "1 order that had waited is"
        )
        say(f"  {many} due again: dualcert renew --due")
