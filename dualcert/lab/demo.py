"""A whole incident, played: a pair is issued, its serving certificate revoked, failed over, and made whole again.

Each step is looked at from outside (a handshake, the CA's own word) and judged; the first at which something else is
seen than should be ends the play. One that was only too slow counts as failed, and the play goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from dualcert.clock import Clock, SystemClock
from dualcert.errors import DualcertError
from dualcert.lab.demo_stage import Ran, Stage, command_line
from dualcert.lab.demo_tellers import Standing, StepResult, Teller
from dualcert.lab.errors import LabError
from dualcert.lab.lab import DOMAIN, Lab

LONGEST_STEP = 10.0
"""Seconds; a slow machine is no failure, a step that hangs is."""

NAMES = (DOMAIN, f"*.{DOMAIN}")
_KEY_DIGITS = 16
_WORDS = {
    "account-registered": "account registered",
    "placed": "order placed",
    "published": "{cause}",
    "validated": "{cause}",
    "stored": "{cause}",
    "withdrawn": "{cause} withdrawn",
    "promoted": "promoted to serve",
    "deployed": "the certificate that serves now is written",
    "verified": "seen with a handshake",
    "key-purged": "{cause}",
    "revoked": "{cause}",
}


class NotAsItShouldBe(LabError):
    """A step was carried out and what was seen afterwards is wrong."""


@dataclass
class Play:
    """The state of the story. ``first`` is the pair as it was issued."""

    teller: Teller
    clock: Clock
    longest: float
    results: list[StepResult] = field(default_factory=list)
    stage: Stage | None = None
    first: Any = None
    switch_seconds: float | None = None
    """From the start of the last command that switched a certificate to the handshake that showed the new one."""

    @property
    def ok(self) -> bool:
        return len(self.results) == len(STEPS) and all(one.ok for one in self.results)


def play(teller: Teller, *, longest: float = LONGEST_STEP, clock: Clock | None = None) -> Play:
    """Play the whole incident; nothing is left of it afterwards. Raises ``LabError`` where the lab cannot start.

    A step of more than ``longest`` seconds counts as failed.
    """
    state = Play(teller, clock or SystemClock(), longest)
    teller.introduce()
    with ExitStack() as undo:
        for number, (name, title, act) in enumerate(STEPS, start=1):
            teller.step(number, len(STEPS), title)
            if not _step(state, name, lambda act=act: act(state, undo)):  # type: ignore[misc]
                break
    teller.conclude(state.results, _last_words(state))
    return state


def _step(state: Play, name: str, act: Callable[[], str]) -> bool:
    """Carry out one step and judge it; whether the next one can follow."""
    began = state.clock.monotonic()
    try:
        seen, went_well = act(), True
    except DualcertError as error:
        if state.stage is None:
            raise
        seen, went_well = str(error), False
    seconds = state.clock.monotonic() - began
    in_time = seconds <= state.longest
    if went_well and not in_time:
        seen = f"{seen}, but after more than {state.longest:.0f} s"
    result = StepResult(name, round(seconds, 3), went_well and in_time, seen)
    state.results.append(result)
    state.teller.ended(result)
    return went_well


def _last_words(state: Play) -> str:
    if not state.ok:
        failed = ", ".join(one.name for one in state.results if not one.ok)
        rest = "" if len(state.results) == len(STEPS) else ". The steps after it were not played"
        return f"Not as it should be: {failed}{rest}."
    total = sum(one.seconds for one in state.results)
    return (
        f"All as it should be, in {total:.1f} s. From the start of `dualcert failover` to a\n"
        f"handshake with the other CA's certificate: {state.switch_seconds:.2f} s. The servers have\n"
        "ended, and nothing is left behind. Play it yourself: dualcert lab up"
    )


# --- the steps -------------------------------------------------------------------------------------------


def _start(state: Play, undo: ExitStack) -> str:
    with state.teller.working():
        lab = undo.enter_context(Lab.start())
        state.stage = undo.enter_context(Stage.opened(lab))
    state.teller.fact(f"alpha  {lab.alpha.directory_url}   RSA, 90 days")
    state.teller.fact(f"beta   {lab.beta.directory_url}   ECDSA, wants an account binding")
    state.teller.fact(
        f"DNS    {lab.bind.address}:{lab.bind.port}               takes TXT updates under a TSIG key"
    )
    state.teller.fact(f"nginx  {lab.nginx.endpoint}               serves {lab.live}")
    return "two CAs, DNS and a web server listen on 127.0.0.1"


def _issue(state: Play, _undo: ExitStack) -> str:
    state.first = pair = _done(state, "issue", *NAMES).data
    _expect(pair["protection"] == "protected", f"the pair is {pair['protection']} after its issuance")
    alpha, beta = pair["primary"], pair["backup"]
    _expect((alpha["ca"], beta["ca"]) == ("alpha", "beta"), "the two certificates come from other CAs")
    _tell_certificates(state, alpha, beta)
    for what in ("spki_sha256", "issuer", "serial"):
        _expect(alpha["certificate"][what] != beta["certificate"][what], f"both have the same {what}")
    _stand(state, alpha="serves", beta="ready", verdict="protected")
    return "two certificates, of two CAs, for two keys"


def _look(state: Play, _undo: ExitStack) -> str:
    shown, certificate = _presented(state), state.first["primary"]["certificate"]
    _expect(shown == certificate["sha256"], "nginx shows another certificate than alpha's")
    return f"nginx shows alpha's {certificate['serial']}; a client trusts it"


def _incident(state: Play, _undo: ExitStack) -> str:
    stage, serial = _stage(state), state.first["primary"]["certificate"]["serial"]
    _expect(stage.status_at(stage.lab.alpha, serial) == "Valid", "alpha does not know its own certificate")
    stage.revoke_behind_its_back("alpha", stage.handshake(DOMAIN).der)
    status = stage.status_at(stage.lab.alpha, serial)
    _expect(status == "Revoked", f"alpha says of the certificate: {status}")
    _expect(
        _presented(state) == state.first["primary"]["certificate"]["sha256"],
        "nginx shows another certificate already",
    )
    _stand(state, alpha="revoked", beta="ready", verdict="clients may refuse it")
    return f'alpha says "{status}" of {serial}; nginx still shows it'


def _failover(state: Play, _undo: ExitStack) -> str:
    shown = _done(state, "failover", DOMAIN, "--revoke").data
    beta = state.first["backup"]["certificate"]
    _expect(shown["to"] == {"ca": "beta", "serial": beta["serial"]}, "another certificate was promoted")
    _expect(shown["revoked"], "the old certificate does not count as revoked")
    [target] = shown["targets"]
    _expect(target["verified"] == "wire", "the new certificate was not seen with a handshake")
    _expect(state.switch_seconds is not None, "no event says that the new certificate was seen")
    return f"beta's certificate serves after {state.switch_seconds:.2f} s; nothing was ordered"


def _look_again(state: Play, _undo: ExitStack) -> str:
    shown, certificate = _presented(state), state.first["backup"]["certificate"]
    _expect(shown == certificate["sha256"], "nginx shows another certificate than beta's")
    _stand(state, alpha="revoked", beta="serves", verdict="no backup yet")
    return f"nginx shows beta's {certificate['serial']}; a client trusts it"


def _refill(state: Play, _undo: ExitStack) -> str:
    left = _done(state, "renew", "--due").data["left"]
    _expect(left == [], f"steps are left over: {left}")
    return "alpha has issued again, under a new key"


def _whole_again(state: Play, _undo: ExitStack) -> str:
    stage = _stage(state)
    state.teller.command(command_line("show", DOMAIN))
    pair = stage.show(DOMAIN)
    _expect(pair["protection"] == "protected", f"the pair is {pair['protection']}")
    old, new = state.first["primary"]["certificate"], pair["backup"]["certificate"]
    _expect((pair["primary"]["ca"], pair["backup"]["ca"]) == ("beta", "alpha"), "the roles are not swapped")
    _expect(new["spki_sha256"] != old["spki_sha256"], "the new certificate has the old key")
    status = stage.status_at(stage.lab.alpha, new["serial"])
    _expect(status == "Valid", f"alpha says of the new certificate: {status}")
    _expect(_presented(state) == pair["primary"]["certificate"]["sha256"], "nginx shows another certificate")
    _tell_certificates(state, pair["primary"], pair["backup"])
    _stand(state, alpha="ready", beta="serves", verdict="protected")
    return "beta serves, alpha stands ready: protected again"


STEPS: tuple[tuple[str, str, Callable[[Play, ExitStack], str]], ...] = (
    ("start", "Start two CAs, DNS and a web server", _start),
    ("issue", f"Get two certificates for {' and '.join(NAMES)}", _issue),
    ("handshake", "Look at the web server, as a browser would", _look),
    ("incident", "The CA alpha revokes the certificate that serves; dualcert is not told", _incident),
    ("failover", "Fail over: the certificate that stood ready takes its place", _failover),
    ("handshake-again", "Look at the web server again", _look_again),
    ("refill", "Fill the empty place, as a scheduled run does", _refill),
    ("protected", "Two certificates again", _whole_again),
)


# --- what they share -------------------------------------------------------------------------------------


def _stage(state: Play) -> Stage:
    if state.stage is None:
        raise AssertionError("the first step makes the stage")
    return state.stage


def _done(state: Play, *arguments: str) -> Ran:
    """Run a command that has to succeed."""
    state.teller.command(command_line(*arguments))

    def tell(seconds: float, event: dict[str, Any]) -> None:
        if event["kind"] == "verified":
            state.switch_seconds = seconds
        words = _WORDS.get(event["kind"])
        if words is not None:
            who = event["ca"] or event["target"] or ""
            state.teller.event(seconds, who, words.format(cause=event["cause"]))

    with state.teller.working():
        ran = _stage(state).run(*arguments, on_event=tell)
    _expect(
        ran.status == 0,
        f"`{command_line(*arguments)}` ended with exit status {ran.status}\n{ran.error}".strip(),
    )
    return ran


def _presented(state: Play) -> str:
    return _stage(state).handshake(DOMAIN).sha256


def _stand(state: Play, *, alpha: str, beta: str, verdict: str) -> None:
    """Tell who holds what; whose certificate nginx shows is looked at, not assumed."""
    shown = _presented(state)
    owners = {state.first["primary"]["certificate"]["sha256"]: "alpha's"}
    owners[state.first["backup"]["certificate"]["sha256"]] = "beta's"
    nginx = owners.get(shown, "another certificate")
    state.teller.standing(Standing(alpha, beta, nginx, verdict, good=verdict == "protected"))


def _tell_certificates(state: Play, *lineages: Any) -> None:
    state.teller.fact(f"{'CA':<6} {'serial':<17} {'key (SHA-256)':<17} issuer")
    for one in lineages:
        certificate = one["certificate"]
        key = certificate["spki_sha256"][:_KEY_DIGITS]
        state.teller.fact(f"{one['ca']:<6} {certificate['serial']:<17} {key:<17} {certificate['issuer']}")


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise NotAsItShouldBe(otherwise)
