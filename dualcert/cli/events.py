"""``dualcert events``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import pairs
from dualcert.cli.context import Context
from dualcert.cli.frame import Argument, Command, pass_context
from dualcert.cli.output import Column, note, print_columns, print_json, print_json_lines, say
from dualcert.clock import rfc3339
from dualcert.errors import EXIT_DONE, EXIT_FAILED, StoreError, UsageProblem
from dualcert.model.wording import many

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dualcert.lifecycle.sealing import Head
    from dualcert.lifecycle.signing import Checked, PublicKey
    from dualcert.lifecycle.world import World
    from dualcert.model.seal import Seal

_EXAMPLES = """
dualcert events example.com
dualcert events --json | jq -c 'select(.kind == "promoted")'
dualcert events --head >> heads.jsonl             # then copy that file to another machine
dualcert events --public-key >> signing-keys.pem  # for each new key once, and by hand to whoever will verify
dualcert events --verify --against heads.jsonl --signed-by signing-keys.pem
"""
_EXITS = {
    EXIT_DONE: "Told; with --verify: every seal is right, and every head of --against was found.",
    EXIT_FAILED: "With --verify: the history is not what was sealed or signed. The first thing that is wrong is named.",
}

_COLUMNS = (
    Column("AT", 27),
    Column("PAIR", 24),
    Column("CA/TARGET", 9),
    Column("KIND", 18),
    Column("ACTOR", 16),
    Column("CAUSE"),
)


@click.command(
    "events", cls=Command, examples=_EXAMPLES, exits=_EXITS, see=("dualcert show", "docs/audit.md")
)
@click.argument(
    "name",
    cls=Argument,
    metavar="[NAME]",
    required=False,
    shell_complete=pairs,
    help="A pair's name, or a name that it covers. Unsaid: all pairs.",
)
@click.option(
    "--verify", is_flag=True, help="Compute all seals over the history anew, instead of showing it."
)
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="With --verify: heads that --head gave, kept elsewhere, one a line; - for stdin.",
)
@click.option(
    "--signed-by",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="With --against: what --public-key gave, kept elsewhere, be it several times: each of these heads must be "
    "signed with one of these keys.",
)
@click.option(
    "--head",
    is_flag=True,
    help="Seal all there is, sign the last seal, and print it as a line for --against.",
)
@click.option("--public-key", is_flag=True, help="Print the public key that heads are signed with, in PEM.")
@pass_context
def events(
    context: Context,
    name: str | None,
    verify: bool,
    against: str | None,
    signed_by: str | None,
    head: bool,
    public_key: bool,
) -> int:
    """Show what happened to a pair, or to all, oldest first: who, what, why and when.

    The history is sealed as it grows: each seal holds the hash of its events and of the seal before it. --verify
    computes them all anew, and compares with all heads that were signed here. Whoever can write to the database
    can compute seals anew as well, so keep the line that --head prints where he cannot write, and compare with it by
    --against. Whoever has the public key from before can take that line from anybody.
    """
    if verify + head + public_key + bool(name) > 1 or (against and not verify) or (signed_by and not against):
        raise UsageProblem(
            "--verify, --head and --public-key stand alone and take no NAME; --against belongs to --verify, "
            "--signed-by to --against",
            remedy="See `dualcert events --help`.",
        )
    if head:
        return _head(context)
    if public_key:
        return _public_key(context)
    if verify:
        return _verify(context, against, signed_by)
    _show(context, name)
    return EXIT_DONE


def _show(context: Context, name: str | None) -> None:
    from dualcert.lifecycle import history

    world = context.application.world
    found = history.tell(world, history.of_name(world, name) if name else None)
    if context.json:
        print_json_lines(found)
        return
    print_columns(
        _COLUMNS,
        (
            (one["at"], one["pair"], one["ca"] or one["target"], one["kind"], one["actor"], one["cause"])
            for one in found
        ),
    )


def _head(context: Context) -> int:
    from dualcert.lifecycle import signing

    line = signing.head(context.application.world)
    if line is None:
        note("nothing has happened yet: there is nothing to seal")
        return EXIT_DONE
    print_json(line)
    return EXIT_DONE


def _public_key(context: Context) -> int:
    from dualcert.lifecycle import signing

    pem = signing.public_key(context.application.world)
    if context.json:
        print_json({"public_key": pem})
    else:
        say(pem.rstrip())
    return EXIT_DONE


def _shown(seal: Seal) -> dict[str, Any]:
    return {"no": seal.no, "last_id": seal.last_id, "digest": seal.digest, "at": seal.at}


def _verify(context: Context, against: str | None, signed_by: str | None) -> int:
    from dualcert.lifecycle import signing

    world = context.application.world
    by = None if signed_by is None else _keys(signed_by)
    checked = signing.verify(world, [] if against is None else _kept(against), by)
    verdict = checked.verdict
    unsealed = _seal_newer(world) if verdict.broken is None and verdict.newer else None
    if context.json:
        print_json(
            {
                "ok": verdict.broken is None,
                "head": None if verdict.head is None else _shown(verdict.head),
                "newer": verdict.newer,
                "compared": verdict.compared,
                "by_signature": checked.by_signature,
                "signed": None
                if checked.signed is None
                else {"no": checked.signed[0], "at": checked.signed[1]},
                "unchecked": None
                if checked.unchecked is None
                else {"count": checked.unchecked[0], "reason": checked.unchecked[1]},
                "broken": verdict.broken,
                "unsealed": unsealed,
            }
        )
    else:
        _tell(checked, unsealed)
    return EXIT_DONE if verdict.broken is None else EXIT_FAILED


def _seal_newer(world: World) -> str | None:
    """Where no daemon runs, nobody else does it. Why it could not be: no reason to keep the verdict back."""
    from dualcert.lifecycle import sealing

    try:
        sealing.seal_everything(world)
    except StoreError as error:
        return error.reason
    return None


def _tell(checked: Checked, unsealed: str | None) -> None:
    verdict = checked.verdict
    head = verdict.head
    if verdict.broken is not None:
        say(f"BROKEN: {verdict.broken}")
        say("right up to there" if head is None else f"right up to event {head.last_id}, seal {head.no}")
        return
    sealed = "nothing was sealed yet" if head is None else f"sealed to {head.last_id}"
    say(f"{sealed}, {verdict.newer} newer")
    if head is not None:
        say(f"  {many(head.no, 'seal is', 'seals are')} right; the last is {head.digest.hex()}")
    if verdict.compared:
        signed = ", each signed with a key that was given" if checked.by_signature else ""
        kept = "of them was kept elsewhere, and is the same"
        say(f"  {many(verdict.compared, kept, 'of them were kept elsewhere, and are the same')}{signed}")
    if checked.signed is not None:
        say(f"  seal {checked.signed[0]} is the one that was signed at {rfc3339(checked.signed[1])}")
    if checked.unchecked is not None:
        count, why = checked.unchecked
        say(f"  {many(count, 'older signature', 'older signatures')} could not be checked: {why}")
    if unsealed is not None:
        say(f"  what is newer could not be sealed: {unsealed}")
    elif verdict.newer:
        say("  what was newer is sealed now")


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageProblem(f"{file} cannot be read: {why}", remedy="Name what `events` printed.") from None


def _keys(file: str) -> list[PublicKey]:
    """Raises ``UsageProblem`` for a file that is not what --public-key prints."""
    from dualcert.lifecycle import signing

    try:
        return signing.public_keys(_read(file).encode())
    except ValueError as error:
        raise UsageProblem(
            f"{file} holds no public key in PEM of the kind that signs heads, or something else besides",
            remedy="Name what `events --public-key` printed; of several keys, one after another.",
        ) from error


def _kept(file: str) -> list[tuple[Head, Mapping[str, Any]]]:
    """Raises ``UsageProblem`` for a file that is not what --head prints."""
    import json

    from dualcert.lifecycle.sealing import Head

    heads: list[tuple[Head, Mapping[str, Any]]] = []
    for number, line in enumerate(_read(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            read = json.loads(line)
            if type(read["no"]) is not int or read["no"] < 1:
                raise ValueError("no seal has that number")
            heads.append((Head(read["no"], bytes.fromhex(read["digest"]), number), read))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UsageProblem(
                f"{file}, line {number}: this is not a head of the history",
                remedy='A line reads like {"no": 3, "last_id": 120, "digest": "...", "at": "..."}.',
            ) from None
    if not heads:
        raise UsageProblem(f"{file} holds no head", remedy="Fill it with `dualcert events --head`.")
    return heads
