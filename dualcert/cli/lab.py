"""``dualcert lab``"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.context import Context
from dualcert.cli.frame import EXIT_INTERRUPTED, Group, pass_context
from dualcert.cli.output import is_terminal, note, print_json, say
from dualcert.cli.progress import duration
from dualcert.errors import EXIT_DONE, EXIT_FAILED

if TYPE_CHECKING:
    from dualcert.lab import Lab
    from dualcert.lab.demo_tellers import Teller


@click.group("lab", cls=Group)
def lab() -> None:
    """Two CAs, DNS and a web server on loopback, to rehearse with.

    The CAs are two Pebbles of different configuration, DNS is BIND with a TSIG key, the web server is nginx. They
    listen on free ports of 127.0.0.1, and end with the command that started them.
    """


_UP_EXAMPLES = """
dualcert lab up
dualcert lab up --dir rehearsal
"""


@lab.command(
    "up",
    short_help="Start the lab, and stay until Ctrl-C.",
    examples=_UP_EXAMPLES,
    see=("dualcert lab demo",),
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="A new or empty folder, which stays. Unsaid: a temporary one, which goes.",
)
@pass_context
def up(context: Context, directory: Path | None) -> int:
    """Start the lab with a dualcert.toml for it, and stay until Ctrl-C.

    The configuration's keys and database are made: the commands that are printed work at once, in another terminal.
    """
    from dualcert import bootstrap
    from dualcert.lab import Lab, ending_on_signals

    with ending_on_signals():
        try:
            with Lab.start(directory) as running:
                bootstrap.upgrade_database(bootstrap.load_settings(running.config_path))
                print_json(_described(running)) if context.json else _tell(
                    running, stays=directory is not None
                )
                sys.stdout.flush()
                running.serve(on_restart=_tell_of_restart)
        except KeyboardInterrupt:
            # Ctrl-C is how it ends: nothing went wrong.
            if not context.json:
                say(f"\nended; {directory} stays" if directory else "\nended; nothing is left behind")
            return EXIT_DONE


def _tell_of_restart(name: str) -> None:
    note(
        f"the CA {name} did not answer and was started anew: its root is another, all that it issued is gone"
    )
    note("  new certificates: dualcert renew NAME --force")


def _servers(running: Lab) -> list[dict[str, Any]]:
    alpha, beta, bind, nginx = running.alpha, running.beta, running.bind, running.nginx
    zones = ", ".join(bind.zones)
    return [
        {"server": "alpha", "listens": alpha.directory_url, "what": "CA: RSA, several profiles"},
        {
            "server": "beta",
            "listens": beta.directory_url,
            "what": "CA: ECDSA, strict, external account binding",
        },
        {"server": "bind", "listens": f"{bind.address}:{bind.port}", "what": f"DNS for {zones}"},
        {"server": "nginx", "listens": nginx.endpoint, "what": "serves live/NAME/bundle.pem for NAME"},
    ]


def _commands(running: Lab) -> list[str]:
    """What to try next, ready to be pasted into another terminal's shell."""
    own = [_own_name(), "--config", str(running.config_path)]
    name = running.domain
    tried = (("issue", name, f"*.{name}"), ("failover", name, "--revoke"), ("renew", "--due"))
    return [shlex.join([*own, *arguments]) for arguments in tried]


def _own_name() -> str:
    """How this program is called from a shell: by its name where PATH finds it, else by its path."""
    called = Path(sys.argv[0]).absolute()
    on_path = shutil.which("dualcert")
    if on_path is not None and (called.name != "dualcert" or called.samefile(on_path)):
        return "dualcert"
    return str(called) if called.name == "dualcert" else "dualcert"


def _described(running: Lab) -> dict[str, Any]:
    return {
        "directory": running.directory,
        "config": running.config_path,
        "servers": _servers(running),
        "try": _commands(running),
    }


def _tell(running: Lab, *, stays: bool) -> None:
    say("The lab runs. Ctrl-C ends it" + ("." if stays else ", and its folder goes with it."))
    say()
    for one in _servers(running):
        say(f"  {one['server']:<6} {one['listens']:<28} {one['what']}")
    say(f"  {'config':<6} {running.config_path} (keys and database are made)")
    say()
    say("Try, in another terminal:")
    say()
    for command in _commands(running):
        say(f"  {command}")
    say()
    host, port = running.nginx.address, running.nginx.port
    say("And see what the web server shows:")
    say()
    say(f"  openssl s_client -connect {host}:{port} -servername {running.domain} </dev/null 2>/dev/null \\")
    say("    | openssl x509 -noout -issuer -serial")


_DEMO_EXAMPLES = """
dualcert lab demo
dualcert lab demo --json
"""
_DEMO_EXITS = {EXIT_FAILED: "A step was not as it should be."}


@lab.command(
    "demo",
    short_help="Play a whole incident.",
    examples=_DEMO_EXAMPLES,
    exits=_DEMO_EXITS,
    see=("dualcert lab up",),
)
@click.option(
    "--longest",
    default="10s",
    show_default=True,
    metavar="TIME",
    help="A step that takes longer counts as failed: for slow machines.",
)
@pass_context
def demo(context: Context, longest: str) -> int:
    """Play a whole incident: issue, revoke at the CA, fail over, refill.

    It is played in a lab of its own, which leaves nothing behind. Every step is looked at from outside: with a TLS
    handshake, or by asking the CA.
    """
    from dualcert.lab import ending_on_signals
    from dualcert.lab.demo import play

    seconds = duration(longest, "--longest")
    with ending_on_signals():
        try:
            played = play(_teller(context), longest=seconds)
        except KeyboardInterrupt:
            note("interrupted; the lab has ended, and nothing is left behind")
            return EXIT_INTERRUPTED
    if context.json:
        steps = [
            {"name": one.name, "seconds": one.seconds, "ok": one.ok, "seen": one.seen}
            for one in played.results
        ]
        print_json({"ok": played.ok, "steps": steps})
    return EXIT_DONE if played.ok else EXIT_FAILED


def _teller(context: Context) -> Teller:
    from dualcert.lab.demo_tellers import LiveTeller, PlainTeller, SilentTeller

    if context.json:
        return SilentTeller()
    return LiveTeller() if is_terminal() else PlainTeller(_at_once)


def _at_once(line: str) -> None:
    say(line)
    sys.stdout.flush()
