"""DNS that refuses, lies, loses, lags or stays silent: nothing is lost, and the reason can be read."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from dualcert import bootstrap
from dualcert.bootstrap import Application
from dualcert.clock import SystemClock
from dualcert.config import Settings
from dualcert.errors import DnsRefused
from dualcert.lifecycle import publishing
from dualcert.lifecycle.world import Lazy
from dualcert.plugins.dns import rfc2136
from dualcert.ports.dns import DnsProvider, TxtValue
from dualcert.ports.options import Options
from tests.bindserver import STRANGER, BindServer, bind
from tests.brokenca import change, rows
from tests.labfixture import ProjectLab
from tests.program import Program, finish

_clock = SystemClock()
_OTHER_SECRET = "c29tZXRoaW5nIGVsc2UgdGhhbiB0aGUgc2VjcmV0ISE="


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindServer]:
    """A second name server, which holds the lab's zone too and knows a key without any right."""
    with bind(tmp_path_factory.mktemp("other"), {"example.test": ""}) as server:
        yield server


class Dns:
    """The [dns.lab] table of a test's configuration, to be spoiled and mended."""

    def __init__(self, lab: ProjectLab, program: Program) -> None:
        self._folder = lab.directory
        self._file = program.config
        self._whole = program.config.read_text()
        self.spoil(resolver=f'["{lab.bind.address}:{lab.bind.port}"]')
        self._whole = program.config.read_text()

    def spoil(self, **changes: str) -> None:
        """Set keys of the table to texts of TOML."""
        head, table, rest = re.split(
            r"(?ms)^(\[dns\.lab\]\n.*?\n)(?=\n|\[)", self._file.read_text(), maxsplit=1
        )
        for key, value in changes.items():
            table = re.sub(rf"(?m)^{key} = .*\n", "", table) + f"{key} = {value}\n"
        self._file.write_text(head + table + rest)

    def spoil_secret(self, secret: str) -> None:
        path = self._folder / "other.key"
        path.touch(mode=0o600)
        path.write_text(secret)
        self.spoil(tsig_secret='{ file = "other.key" }')

    def mend(self) -> None:
        self._file.write_text(self._whole)


@pytest.fixture
def dns(lab: ProjectLab, program: Program) -> Dns:
    return Dns(lab, program)


def fails_then_mends(lab: ProjectLab, program: Program, dns: Dns, *words: str, timeout: str = "5m") -> None:
    """Issuing fails soon and says ``words``, in ``show`` too; mended, `renew` completes the pair, nothing is left."""
    name = lab.domain
    began = _clock.monotonic()
    result = program.run("issue", name, "--timeout", timeout)
    took = _clock.monotonic() - began

    assert result.status == 1, result
    assert took < 30, "what only a person can mend is not waited for"
    shown = program.show(name)
    for word in (name, *words):
        assert word in result.err
    for role in ("primary", "backup"):
        renewal = shown[role]["renewal"]
        assert (shown[role]["state"], renewal["state"]) == ("failed", "failing")
        assert all(word in renewal["error"] for word in words)
        assert renewal["tries"] >= 1
        assert renewal["since"] is not None
        assert renewal["next_try"] is not None
    assert lab.leftovers() == {}

    dns.mend()
    program.done("renew", name)
    assert program.show(name)["protection"] == "protected"
    assert lab.leftovers() == {}


def test_a_key_without_the_right_is_refused(
    lab: ProjectLab, program: Program, dns: Dns, other: BindServer
) -> None:
    dns.spoil(port=str(other.port), tsig_name=f'"{STRANGER}"')
    dns.spoil_secret(other.stranger)

    fails_then_mends(
        lab,
        program,
        dns,
        f"key {STRANGER} may not change TXT at _acme-challenge.{lab.domain}",
        other.address,
        f"grant {STRANGER} zonesub TXT",
    )


def test_a_wrong_secret(lab: ProjectLab, program: Program, dns: Dns) -> None:
    dns.spoil_secret(_OTHER_SECRET)

    server = f"{lab.bind.address}:{lab.bind.port}"
    fails_then_mends(lab, program, dns, "another secret under the name dualcert", server, "Compare tsig_name")


def test_an_order_that_waits_for_the_values_does_not_hurry_their_next_try(
    lab: ProjectLab, program: Program, dns: Dns, name: str
) -> None:
    """It looks every few minutes whether its CA still knows it, and how long DNS fails is no concern of its."""
    dns.spoil_secret(_OTHER_SECRET)
    assert program.run("issue", name, "--timeout", "10s").status == 1
    change(program, "UPDATE work SET attempts = 9, due_at = due_at + 86400000000 WHERE kind = 'publication'")
    [before] = rows(program, "SELECT due_at, attempts FROM work WHERE kind = 'publication'")
    assert change(program, "UPDATE work SET due_at = 1 WHERE kind = 'order'") == 2

    program.run("renew", "--due", "--timeout", "10s")

    assert rows(program, "SELECT due_at, attempts FROM work WHERE kind = 'publication'") == [before]
    assert rows(program, "SELECT step FROM acme_order") == [("placed",), ("placed",)]
    dns.mend()
    program.done("renew", name)
    assert lab.leftovers() == {}


def test_a_key_that_the_server_does_not_know(lab: ProjectLab, program: Program, dns: Dns) -> None:
    dns.spoil(tsig_name='"nobody"')

    server = f"{lab.bind.address}:{lab.bind.port}"
    fails_then_mends(lab, program, dns, "knows no TSIG key nobody", server, "Compare tsig_name")


def test_a_server_that_does_not_hold_the_zone(
    lab: ProjectLab, program: Program, dns: Dns, tmp_path: Path
) -> None:
    with bind(tmp_path, {"elsewhere.test": ""}) as elsewhere:
        dns.spoil(port=str(elsewhere.port))
        dns.spoil_secret(elsewhere.key)

        fails_then_mends(
            lab,
            program,
            dns,
            f"does not hold the zone of _acme-challenge.{lab.domain}",
            elsewhere.address,
            "must be the zone's primary",
        )


def test_a_name_that_is_in_no_zone(lab: ProjectLab, program: Program) -> None:
    name = f"{lab.domain.partition('.')[0]}.nowhere.test"

    result = program.run("issue", name)

    assert result.status == 1
    assert f"no zone holds _acme-challenge.{name}" in result.err
    assert "registered and delegated?" in result.err
    assert "no zone holds" in program.show(name)["primary"]["renewal"]["error"]


def test_a_server_that_accepts_and_never_answers(
    lab: ProjectLab, program: Program, dns: Dns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rfc2136, "_SECONDS", 0.3)  # ten seconds each are as true and not as quick
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        dns.spoil(port=str(port))

        # Silence may pass, so it is asked again a few times; the person has less patience than that.
        fails_then_mends(
            lab,
            program,
            dns,
            "no answer within",
            f"127.0.0.1:{port}",
            "Check `server` and `port`",
            timeout="2s",
        )


def test_a_server_that_is_down(lab: ProjectLab, program: Program, dns: Dns) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    dns.spoil(port=str(port))

    fails_then_mends(lab, program, dns, "refused", f"127.0.0.1:{port}", timeout="2s")


# --- providers with peculiarities ------------------------------------------------------------------------


class Peculiar:
    """The real provider, with a look at every change and a chance to spoil it."""

    options_class: ClassVar[type[Options]] = Options

    def __init__(
        self,
        inner: DnsProvider,
        capacity: int | None = None,
        spoil: Callable[[frozenset[TxtValue]], frozenset[TxtValue]] = frozenset,
    ) -> None:
        self._inner = inner
        self._capacity = capacity
        self._spoil = spoil
        self.changes: list[tuple[str, frozenset[TxtValue], frozenset[TxtValue]]] = []

    @property
    def capacity(self) -> int | None:
        return self._capacity

    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        self.changes.append((zone, frozenset(add), frozenset(remove)))
        self._inner.apply(zone, self._spoil(frozenset(add)), remove)

    def default_resolvers(self) -> tuple[str, ...]:
        return self._inner.default_resolvers()

    @property
    def most_at_once(self) -> int:
        """How many values stood at one name at the most."""
        standing: set[TxtValue] = set()
        most = 0
        for _, add, remove in self.changes:
            standing = (standing - remove) | add
            for name in {value.name for value in standing}:
                most = max(most, sum(value.name == name for value in standing))
        return most


class Peculiarity:
    """Builds the program with a peculiar provider, and keeps hold of it."""

    def __init__(self, make: Callable[[DnsProvider], Peculiar]) -> None:
        self._make = make
        self.provider: Peculiar

    def __call__(self, settings: Settings) -> Application:
        application = bootstrap.build(settings)
        binding = application.world.dns_of("lab")
        self.provider = self._make(binding.provider())
        spoiled = replace(binding, provider=Lazy(lambda: self.provider))
        return replace(application, world=replace(application.world, dns={"lab": spoiled}))


@pytest.mark.parametrize("looks", [4, pytest.param(None, marks=pytest.mark.long, id="as-shipped")])
def test_a_value_that_the_provider_lost_is_added_again(
    lab: ProjectLab, program: Program, name: str, monkeypatch: pytest.MonkeyPatch, looks: int | None
) -> None:
    if looks is not None:
        monkeypatch.setattr(publishing, "_ADD_AGAIN", looks)
    lost: list[TxtValue] = []

    def lose_one(add: frozenset[TxtValue]) -> frozenset[TxtValue]:
        if lost or len(add) < 2:
            return add
        lost.append(min(add))
        return add - set(lost)

    built = Peculiarity(lambda real: Peculiar(real, spoil=lose_one))
    result = program.run("issue", name, f"*.{name}", "--json", build=built)

    assert result.status == 0, result
    assert result.json["protection"] == "protected"
    first, *later = [add for _, add, _ in built.provider.changes if add]
    assert lost[0] in first
    assert any(lost[0] in add for add in later)
    assert lab.leftovers() == {}


@pytest.mark.parametrize("capacity", [1, 2])
def test_a_provider_with_little_room_takes_the_values_in_turns(
    lab: ProjectLab, program: Program, name: str, capacity: int
) -> None:
    built = Peculiarity(lambda real: Peculiar(real, capacity=capacity))

    result = program.run("issue", name, f"*.{name}", "--json", "--timeout", "60s", build=built)

    assert result.status == 0, result
    assert result.json["protection"] == "protected"
    assert built.provider.most_at_once == capacity
    assert lab.leftovers() == {}


class _Crowded(Peculiar):
    """Room for two values at a name. Whoever adds the first ones gives others a second to add theirs as well."""

    def __init__(self, inner: DnsProvider) -> None:
        super().__init__(inner, capacity=2)
        self._together = threading.Barrier(2)

    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        if add:
            with suppress(threading.BrokenBarrierError):
                self._together.wait(1)
        super().apply(zone, add, remove)


def begin_wild(program: Program, name: str) -> None:
    """A pair that is proved at the same name, of which no value goes out yet; the lab's target serves no wildcards."""
    assert program.run("issue", f"*.{name}", "--name", "wild").status == 1
    program.run("pair", "set", "wild", "--no-targets", "--timeout", "0")


def test_pairs_that_share_a_challenge_name_share_its_little_room(
    lab: ProjectLab, program: Program, dns: Dns, name: str
) -> None:
    dns.spoil_secret(_OTHER_SECRET)
    assert program.run("issue", name).status == 1
    begin_wild(program, name)
    dns.mend()
    built = Peculiarity(_Crowded)

    result = program.run("renew", name, "wild", "--timeout", "60s", build=built)

    assert result.status == 0, result
    assert built.provider.most_at_once == 2
    assert lab.leftovers() == {}


def test_a_pair_that_waits_for_room_goes_on_when_another_one_leaves_it(
    lab: ProjectLab, program: Program, dns: Dns, name: str
) -> None:
    """It waits in the table, as after a command that has ended, and is looked at again by itself only in an hour."""
    program.done("issue", name)
    dns.spoil_secret(_OTHER_SECRET)
    begin_wild(program, name)
    dns.mend()
    [(wild,)] = rows(program, "SELECT id FROM pair WHERE name = 'wild'")
    hour = 3_600_000_000
    asleep = "due_at = due_at + ?, waiting_for = 'another step', attempts = 0"
    change(program, f"UPDATE work SET {asleep} WHERE kind = 'publication' AND pair_id = ?", hour, wild)
    built = Peculiarity(lambda real: Peculiar(real, capacity=2))
    assert program.run("renew", name, "--force", build=built).status == 0

    assert program.run("renew", "--due", build=built).status == 0

    assert program.show("wild")["protection"] == "protected"
    assert built.provider.most_at_once <= 2


def test_what_a_provider_does_not_take_keeps_no_room_from_others(program: Program, name: str) -> None:
    class Refusing(Peculiar):
        def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
            if add:
                raise DnsRefused("the change was refused", name=zone)
            super().apply(zone, add, remove)

    assert program.run("issue", name, build=Peculiarity(lambda real: Refusing(real, capacity=2))).status == 1

    assert rows(program, "SELECT state FROM challenge_record") == [("remembered",), ("remembered",)]


def test_a_provider_that_raises_what_nobody_foresaw_fails_that_pair_alone(
    lab: ProjectLab, program: Program, dns: Dns, name: str
) -> None:
    class Buggy(Peculiar):
        def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
            if any(value.name.endswith(f".bad.{name}") for value in add):
                raise RuntimeError("what is\nthis?")
            super().apply(zone, add, remove)

    dns.spoil_secret(_OTHER_SECRET)
    for pair in (f"bad.{name}", name):
        assert program.run("issue", pair).status == 1
    program.run("pair", "set", f"bad.{name}", "--no-targets", "--timeout", "0")
    dns.mend()
    change(program, "UPDATE work SET due_at = 1")

    # A scheduled run, which fails for one pair at each try, brings the other one home.
    result = program.run("run", "--once", build=Peculiarity(Buggy))

    assert result.status == 3, result
    assert program.show(name)["protection"] == "protected"
    assert "the plugin of [dns.lab] failed unforeseen: RuntimeError: what is this?" in result.out
    shown = program.show(f"bad.{name}")["primary"]["renewal"]
    assert (shown["state"], shown["tries"]) == ("failing", 2)
    assert "[dns.lab]" in shown["error"]

    asked = program.run("renew", f"bad.{name}", build=Peculiarity(Buggy))
    assert asked.status == 1
    assert f"bad.{name}, CA alpha: the plugin of [dns.lab] failed unforeseen: RuntimeError" in asked.err
    assert "internal error" not in asked.err

    assert program.run("renew", f"bad.{name}").status == 0
    assert lab.leftovers() == {}


@pytest.mark.parametrize("capacity", ["many", True, 2.5])
def test_a_capacity_that_is_no_number_is_told_as_the_plugins(
    program: Program, name: str, capacity: object
) -> None:
    built = Peculiarity(lambda real: Peculiar(real, capacity=capacity))  # type: ignore[arg-type]

    result = program.run("issue", name, build=built)

    assert result.status == 1
    assert "CA alpha: the plugin of [dns.lab] failed unforeseen: TypeError: its capacity is a" in result.err


def test_a_value_that_cannot_be_withdrawn_is_remembered_until_it_can(
    lab: ProjectLab, program: Program, name: str
) -> None:
    class Stubborn(Peculiar):
        def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
            if remove:
                raise DnsRefused(
                    "the change was refused with SERVFAIL", remedy="The log says why.", name=zone
                )
            super().apply(zone, add, remove)

    result = program.run("issue", name, f"*.{name}", "--json", build=Peculiarity(Stubborn))

    assert result.status == 0, "the certificates do not suffer from it"
    (left,) = lab.leftovers().values()
    assert len(left) == 4
    waiting = program.run("renew", "--due", "--timeout", "1m", "--json")
    assert waiting.status == 1
    (step,) = waiting.json["left"]
    assert (step["step"], step["tries"]) == ("withdrawal", 1)
    assert "SERVFAIL" in step["reason"]

    program.done("renew", name)
    assert lab.leftovers() == {}


def test_a_zone_that_cannot_be_changed_any_more_keeps_no_value_in_another(
    lab: ProjectLab, program: Program, name: str
) -> None:
    lost: list[str] = []

    class Lost(Peculiar):
        def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
            if remove and (not lost or zone in lost):
                lost[:] = [zone]
                raise DnsRefused("the right to change it was taken away", name=zone)
            super().apply(zone, add, remove)

    elsewhere = f"{name.partition('.')[0]}.lab.test"
    result = program.run("issue", name, elsewhere, "--json", build=Peculiarity(Lost))

    assert result.status == 0, result
    [left] = lab.leftovers()
    assert left.endswith(lost[0])
    waiting = program.run("renew", "--due", "--timeout", "1m", "--json").json["left"]
    assert "taken away" in waiting[0]["reason"]
    program.done("renew", name)
    assert lab.leftovers() == {}


def test_a_value_that_was_withdrawn_before_it_went_out_is_withdrawn_again(
    lab: ProjectLab, program: Program, name: str
) -> None:
    """As by another process, which has taken the row over from one that was stopped before it sent the change."""

    over: list[TxtValue] = []

    class Overtaken(Peculiar):
        def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
            if add and not over:
                over.append(min(add))
                change(program, "DELETE FROM challenge_record WHERE value = ?", over[0].value)
            super().apply(zone, add, remove)

    built = Peculiarity(Overtaken)
    program.run("issue", name, "--timeout", "3s", build=built)

    [value] = over
    assert any(value in remove for _, _, remove in built.provider.changes)
    assert value.value not in lab.leftovers().get(value.name, ())


def test_the_challenge_of_a_delegated_name_goes_where_the_cname_leads(
    lab: ProjectLab, program: Program, name: str
) -> None:
    there = f"{name.partition('.')[0]}.acme.test"
    lab.add_record(f"_acme-challenge.{name}", "CNAME", f"{there}.")
    built = Peculiarity(Peculiar)

    result = program.run("issue", name, f"*.{name}", "--json", build=built)

    assert result.status == 0, result
    assert {zone for zone, _, _ in built.provider.changes} == {"acme.test"}
    assert {value.name for _, add, _ in built.provider.changes for value in add} == {there}
    assert lab.leftovers() == {}


def test_a_value_of_somebody_else_at_the_same_name_survives(
    lab: ProjectLab, program: Program, name: str
) -> None:
    record = f"_acme-challenge.{name}"
    lab.add_record(record, "TXT", '"set by somebody else"')

    program.done("issue", name, f"*.{name}")

    assert lab.leftovers() == {record: {"set by somebody else"}}


# --- one of two authoritative servers lags ---------------------------------------------------------------


@pytest.mark.parametrize("lag", [1.5, pytest.param(5.0, marks=pytest.mark.long)])
def test_no_ca_is_asked_before_every_server_shows_the_values(
    lab: ProjectLab, program: Program, dns: Dns, other: BindServer, name: str, lag: float
) -> None:
    dns.spoil(nameservers=f'["{lab.bind.address}:{lab.bind.port}", "{other.address}"]')
    record = f"_acme-challenge.{name}"
    process = program.start("issue", name)
    deadline = _clock.monotonic() + 20
    while len(values := lab.txt_values(record)) < 2:
        assert _clock.monotonic() < deadline
        _clock.sleep(0.02)

    _clock.sleep(lag)  # the lag itself, nothing is waited for
    kinds = [event["kind"] for event in program.events(name)]
    assert "placed" in kinds
    assert not {"published", "answered", "validated"} & set(kinds)
    for value in values:
        other.write("example.test", TxtValue(record, value))

    result = finish(process)
    assert result.status == 0, result
    kinds = [event["kind"] for event in program.events(name)]
    assert kinds.index("published") < kinds.index("validated")
    assert lab.leftovers() == {}


def test_who_lags_is_named_while_it_is_waited_for(
    lab: ProjectLab, program: Program, dns: Dns, other: BindServer, name: str
) -> None:
    dns.spoil(nameservers=f'["{lab.bind.address}:{lab.bind.port}", "{other.address}"]')

    result = program.run("issue", name, "--timeout", "1s")

    assert result.status == 1
    assert f"{other.address} does not show the value yet" in result.err
    dns.mend()
    program.done("issue", name)
    assert lab.leftovers() == {}
