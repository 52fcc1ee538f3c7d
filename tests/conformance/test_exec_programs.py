"""What a user's program may do wrong, and what dualcert tells it: both exec plugins."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dualcert.clock import SystemClock
from dualcert.errors import (
    DeployError,
    DnsCredentialsRejected,
    DnsError,
    DnsRefused,
    DnsThrottled,
    DnsUnreachable,
    OlderEpoch,
    ZoneNotFound,
)
from dualcert.plugins.deploy.exec import ExecDeployer
from dualcert.plugins.deploy.exec import ExecOptions as DeployOptions
from dualcert.plugins.dns.exec import ExecOptions as DnsOptions
from dualcert.plugins.dns.exec import ExecProvider
from dualcert.plugins.execution import TAIL, carry_out
from dualcert.ports.deploy import Held, Version
from dualcert.ports.dns import TxtValue
from dualcert.testing.placements import placement
from tests.conformance.exec_examples import GUIDE, example, write_program

CLOCK = SystemClock()
ZONE = "example.com"
VALUE = TxtValue("_acme-challenge.example.com", "v" * 43)
ONE = placement("a.example.com", 2, 41)
PATIENCE = 20.0


def until(condition: Callable[[], object]) -> None:
    deadline = CLOCK.monotonic() + PATIENCE
    while not condition():
        assert CLOCK.monotonic() < deadline
        CLOCK.sleep(0.01)


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def script(tmp_path: Path, text: str) -> Path:
    return write_program(tmp_path / "program", f"#!/bin/sh\n{text}\n")


def answering(tmp_path: Path, answer: object) -> Path:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return script(tmp_path, f"cat > seen; echo {shlex.quote(text)}")


def provider(program: Path, **changes: Any) -> ExecProvider:
    return ExecProvider(replace(DnsOptions(program=program), **changes))


def change(program: Path, **changes: Any) -> DnsError:
    with pytest.raises(DnsError) as caught:
        provider(program, **changes).apply(ZONE, {VALUE}, set())
    assert ZONE in caught.value.reason
    assert caught.value.remedy
    return caught.value


def deployer(program: Path, **changes: Any) -> ExecDeployer:
    return ExecDeployer(replace(DeployOptions(program=program, lock=program.with_name("lock")), **changes))


def by_operation(tmp_path: Path, answers: Mapping[str, object]) -> Path:
    """A program that answers each operation with what is given here, and keeps every request."""
    return write_program(
        tmp_path / "program",
        f"""#!{sys.executable}
import json, sys
request = json.load(sys.stdin)
with open("requests", "a") as file:
    print(json.dumps(request), file=file)
answers = json.loads({json.dumps(json.dumps(answers))!s})
print(json.dumps({{"protocol": 1, **answers.get(request["operation"], {{}})}}))
""",
    )


def requests(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "requests").read_text().splitlines()]


def all_of(error: BaseException) -> str:
    return "".join([repr(error), str(error), repr(vars(error)), *traceback.format_exception(error)])


# --- a program that cannot be started, or ends badly ---------------------------------------------------------


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    error = change(tmp_path / "nothing")
    assert type(error) is DnsRefused
    assert "nothing cannot be started: it does not exist" in error.reason


def test_a_program_that_is_not_executable(tmp_path: Path) -> None:
    program = script(tmp_path, "true")
    program.chmod(0o644)
    error = change(program)
    assert type(error) is DnsRefused
    assert "not executable" in error.reason
    assert error.remedy == f"chmod +x {program}"


def test_a_program_whose_interpreter_is_missing(tmp_path: Path) -> None:
    error = change(write_program(tmp_path / "program", "#!/nowhere/python\n"))
    assert "the interpreter in its first line does not exist" in error.reason


def test_a_program_that_is_neither_binary_nor_script(tmp_path: Path) -> None:
    error = change(write_program(tmp_path / "program", "echo\n"))
    assert "neither a binary nor a script" in error.reason
    assert "#!" in (error.remedy or "")


def test_an_exit_status_is_a_failure_whatever_was_answered(tmp_path: Path) -> None:
    error = change(
        script(tmp_path, """cat > seen; echo '{"protocol": 1}'; echo no such account >&2; exit 3""")
    )
    assert type(error) is DnsRefused
    assert "ended with exit status 3 during apply, having said:\nno such account" in error.reason


def test_a_signal_is_a_failure(tmp_path: Path) -> None:
    assert "was killed by signal 15" in change(script(tmp_path, "kill -TERM $$")).reason


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "done",
        "[1]",
        "{}",
        '{"protocol": 2}',
        '{"protocol": "1"}',
        '{"protocol": true}',
        '{"protocol": [1]}',
        '{"protocol": 1',
        '{"protocol": 1} {"protocol": 1}',
        "[" * 100_000,
        "\udcff\udcfe",
    ],
)
def test_rubbish_is_no_answer(tmp_path: Path, answer: str) -> None:
    (tmp_path / "answer").write_bytes(answer.encode("utf-8", "surrogateescape"))
    error = change(script(tmp_path, "cat > seen; cat answer"))
    assert type(error) is DnsRefused
    assert 'no JSON object with "protocol": 1' in error.reason
    assert len(error.reason) < 1000


def test_a_run_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    program = script(tmp_path, "echo waiting >&2; sleep 60 & echo $! > child; echo $$ > self; wait")
    error = change(program, timeout=0.5)
    assert type(error) is DnsUnreachable, "it is tried again soon"
    assert "did not end within" in error.reason
    assert "waiting" in error.reason
    started = [int((tmp_path / file).read_text()) for file in ("self", "child")]
    until(lambda: not any(map(runs, started)))


def test_where_nobody_can_wait_for_an_end_without_reaping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS Python has no waitid before 3.13."""
    monkeypatch.delattr(os, "waitid")
    provider(script(tmp_path, """cat > seen; echo '{"protocol": 1}'""")).apply(ZONE, {VALUE}, set())
    assert VALUE.value in (tmp_path / "seen").read_text()
    assert "exit status 3" in change(script(tmp_path, "exit 3")).reason
    assert "did not end within" in change(script(tmp_path, "exec sleep 60"), timeout=0.5).reason


@pytest.mark.parametrize("text", ["exec sleep 60", "yes & exec sleep 60"])
def test_a_run_that_has_become_another_user_s_is_left_and_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """As one does that is started by sudo: the system does not let us kill it."""

    def refuse(_group: int, _signal: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "killpg", refuse)
    start = CLOCK.monotonic()
    error = change(script(tmp_path, f"echo $$ > self; {text}"), timeout=0.5)
    process = int((tmp_path / "self").read_text())

    assert CLOCK.monotonic() - start < PATIENCE / 2, "nobody waits for its end"
    assert "cannot be killed, since it runs as another user" in error.reason
    assert runs(process)
    os.kill(process, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{process}").exists())


def test_a_run_that_writes_without_end_is_killed(tmp_path: Path) -> None:
    start = CLOCK.monotonic()
    error = change(script(tmp_path, "echo $$ > self; exec yes"))
    assert "wrote more than 1048576 bytes" in error.reason
    assert CLOCK.monotonic() - start < PATIENCE / 2
    until(lambda: not runs(int((tmp_path / "self").read_text())))


def test_complaints_without_end_do_no_harm(tmp_path: Path) -> None:
    text = """cat > seen; yes "many words" | head -c 3000000 >&2; echo the last >&2; echo '{"protocol": 1}'; exit %d"""
    provider(script(tmp_path, text % 0)).apply(ZONE, {VALUE}, set())
    error = change(script(tmp_path, text % 1))
    assert error.reason.partition(", zone")[0].endswith("the last")
    assert len(error.reason) < 2500
    ended = carry_out([str(script(tmp_path, text % 1))], timeout=PATIENCE, clock=CLOCK, folder=tmp_path)
    assert len(ended.complaints) == TAIL


def test_complaints_are_shown_as_plain_text(tmp_path: Path) -> None:
    error = change(script(tmp_path, r"""printf '\033[2Jgone \342\200\256txt\007\377 a\tb\n' >&2; exit 1"""))
    assert error.reason.partition("said:\n")[2].startswith("\ufffd[2Jgone \ufffdtxt\ufffd\ufffd a\tb")


def test_a_server_left_behind_holds_nobody_up(tmp_path: Path) -> None:
    """It keeps both outputs open for as long as it lives."""
    program = script(tmp_path, """cat > seen; sleep 60 & echo $! > child; echo '{"protocol": 1}'""")
    start = CLOCK.monotonic()
    provider(program).apply(ZONE, {VALUE}, set())
    assert CLOCK.monotonic() - start < PATIENCE / 2
    child = int((tmp_path / "child").read_text())
    assert runs(child)
    os.kill(child, signal.SIGKILL)


# --- what it is told, and what it is not ---------------------------------------------------------------------


def test_the_environment_holds_what_is_named_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPHA_HMAC", "a secret of ours")
    monkeypatch.setenv("API_URL", "https://dns.example.com")
    program = script(tmp_path, """cat > seen; env > environment; echo '{"protocol": 1}'""")
    provider(program, environment=("API_URL", "NOT_SET")).apply(ZONE, {VALUE}, set())
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert {"PATH", "HOME", "API_URL"} <= names
    shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert names - shell <= {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "API_URL")
    }


def test_arguments_are_words_and_the_key_is_in_none(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        """cat > seen; for word; do echo "<$word>"; done > words; cat /proc/$$/cmdline > line; exit 1""",
    )
    given = ("a b", "$HOME", "", "*")
    with pytest.raises(DeployError):
        deployer(program, arguments=given).deploy([ONE])
    assert (tmp_path / "words").read_text().splitlines() == [f"<{word}>" for word in given]
    assert "PRIVATE KEY" not in (tmp_path / "line").read_text()


def test_it_runs_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path, """cat > seen; pwd > where; echo '{"protocol": 1}'""")
    monkeypatch.chdir("/")
    provider(program).apply(ZONE, {VALUE}, set())
    assert Path((tmp_path / "where").read_text().strip()) == tmp_path


def test_a_program_need_not_read_its_request(tmp_path: Path) -> None:
    many = {TxtValue(f"_acme-challenge.n{n}.example.com", "v" * 200) for n in range(3000)}
    provider(script(tmp_path, """echo '{"protocol": 1}'""")).apply(ZONE, many, set())


def test_a_large_request_arrives_whole(tmp_path: Path) -> None:
    many = {TxtValue(f"_acme-challenge.n{n}.example.com", "v" * 200) for n in range(3000)}
    provider(by_operation(tmp_path, {})).apply(ZONE, many, set())
    [request] = requests(tmp_path)
    assert {(one["name"], one["value"]) for one in request["add"]} == {(v.name, v.value) for v in many}


def test_nothing_to_change_starts_nothing(tmp_path: Path) -> None:
    provider(tmp_path / "nothing").apply(ZONE, set(), set())
    assert deployer(tmp_path / "nothing").deploy([]) == {}
    assert deployer(tmp_path / "nothing").read_back([]) == {}


def test_a_value_to_add_and_to_remove_is_to_be_added(tmp_path: Path) -> None:
    provider(by_operation(tmp_path, {})).apply(ZONE, {VALUE}, {VALUE})
    [request] = requests(tmp_path)
    assert (request["add"], request["remove"]) == ([{"name": VALUE.name, "value": VALUE.value}], [])


# --- DNS: what an answer means -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("credentials", DnsCredentialsRejected),
        ("zone", ZoneNotFound),
        ("throttled", DnsThrottled),
        ("unreachable", DnsUnreachable),
        ("refused", DnsRefused),
        ("a word of tomorrow", DnsRefused),
    ],
)
def test_words_for_errors(tmp_path: Path, word: str, kind: type[DnsError]) -> None:
    error = change(
        answering(tmp_path, {"protocol": 1, "error": {"kind": word, "reason": "because", "remedy": "do"}})
    )
    assert type(error) is kind
    assert (error.reason, error.remedy) == ("because, zone example.com", "do")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (30, 30),
        (0.5, 0.5),
        (1e300, 86400),
        pytest.param(10**400, 86400, id="huge"),
        (None, 60),
        (-1, 60),
        (True, 60),
        ("30", 60),
    ],
)
def test_how_long_to_wait(tmp_path: Path, said: object, seconds: float) -> None:
    answer = {"protocol": 1, "error": {"kind": "throttled", "retry_after": said}}
    assert change(answering(tmp_path, answer)).retry_after == timedelta(seconds=seconds)


@pytest.mark.parametrize("error", ["no", 7, [], {}, {"reason": 7}, {"kind": ["zone"]}, False])
def test_an_error_that_says_little_is_still_one(tmp_path: Path, error: object) -> None:
    assert type(change(answering(tmp_path, {"protocol": 1, "error": error}))) is DnsRefused


def test_an_error_that_is_null_is_none(tmp_path: Path) -> None:
    """As for a pair that was staged, where null says that it worked."""
    provider(answering(tmp_path, {"protocol": 1, "error": None})).apply(ZONE, {VALUE}, set())


def test_a_reason_is_shown_as_plain_text_and_not_at_any_length(tmp_path: Path) -> None:
    reason = "\033[31m" + "x" * 100_000
    error = change(answering(tmp_path, {"protocol": 1, "error": {"kind": "zone", "reason": reason}}))
    assert "\033" not in error.reason
    assert len(error.reason) < 1000


def test_a_lock_lets_runs_through_one_by_one(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        """cat > /dev/null; mkdir alone || exit 1; sleep 0.05; rmdir alone; echo '{"protocol": 1}'""",
    )
    shared = provider(program, lock=tmp_path / "lock")
    failures: list[DnsError] = []

    def run() -> None:
        try:
            shared.apply(ZONE, {VALUE}, set())
        except DnsError as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_lock_that_stays_taken_ends_the_wait(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        error = change(answering(tmp_path, {"protocol": 1}), lock=tmp_path / "lock", timeout=0.3)
    assert type(error) is DnsUnreachable
    assert "have held" in error.reason
    assert not (tmp_path / "seen").exists()


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    error = change(answering(tmp_path, {"protocol": 1}), lock=tmp_path / "no" / "lock")
    assert "cannot open the lock" in error.reason


# --- targets: what an answer means ---------------------------------------------------------------------------

STANDS = {"sha256": ONE.sha256.hex(), "epoch": 2, "number": 41}


def bring(tmp_path: Path, answers: Mapping[str, object]) -> DeployError | None:
    return deployer(by_operation(tmp_path, answers)).deploy([ONE])[ONE.pair]


def operations(tmp_path: Path) -> list[str]:
    return [request["operation"] for request in requests(tmp_path)]


@pytest.mark.parametrize("chain", [{}, {"chain_sha256": hashlib.sha256(ONE.chain.encode()).hexdigest()}])
def test_what_stands_there_is_left_alone(tmp_path: Path, chain: Mapping[str, str]) -> None:
    assert bring(tmp_path, {"read_back": {"pairs": {ONE.pair: {**STANDS, **chain}}}}) is None
    assert operations(tmp_path) == ["read_back"]


def test_what_stands_there_and_is_not_shown_is_activated(tmp_path: Path) -> None:
    assert bring(tmp_path, {"read_back": {"pairs": {ONE.pair: {**STANDS, "active": False}}}}) is None
    assert operations(tmp_path) == ["read_back", "activate"]


@pytest.mark.parametrize(
    "there",
    [
        None,
        {**STANDS, "epoch": 1},
        {**STANDS, "sha256": "00" * 32},
        {"sha256": "11" * 32},
        {**STANDS, "chain_sha256": "11" * 32},
    ],
)
def test_what_is_missing_is_staged_and_activated(tmp_path: Path, there: object) -> None:
    assert (
        bring(tmp_path, {"read_back": {"pairs": {ONE.pair: there}}, "stage": {"pairs": {ONE.pair: None}}})
        is None
    )
    assert operations(tmp_path) == ["read_back", "stage", "activate"]


def test_what_is_newer_stays(tmp_path: Path) -> None:
    for there in ({**STANDS, "epoch": 3}, {**STANDS, "number": 42}):
        assert isinstance(bring(tmp_path, {"read_back": {"pairs": {ONE.pair: there}}}), OlderEpoch)
    assert set(operations(tmp_path)) == {"read_back"}


def test_a_program_may_know_better_that_something_newer_is_there(tmp_path: Path) -> None:
    told = {"kind": "older", "reason": "epoch 7 has come in between"}
    error = bring(tmp_path, {"read_back": {"pairs": {ONE.pair: None}}, "stage": {"pairs": {ONE.pair: told}}})
    assert isinstance(error, OlderEpoch)
    assert error.reason == "epoch 7 has come in between"
    assert operations(tmp_path) == ["read_back", "stage"]


def test_an_unknown_version_is_not_newer(tmp_path: Path) -> None:
    program = by_operation(tmp_path, {"read_back": {"pairs": {ONE.pair: {"sha256": "11" * 32}}}})
    assert deployer(program).read_back([ONE.pair]) == {ONE.pair: Held(bytes.fromhex("11" * 32), None)}


@pytest.mark.parametrize(
    "there",
    [
        {},
        7,
        {"sha256": "abc"},
        {"sha256": "ab"},
        {**STANDS, "epoch": "2"},
        {**STANDS, "epoch": True},
        {**STANDS, "epoch": None},
        {**STANDS, "active": "no"},
        {**STANDS, "sha256": 7},
        {**STANDS, "chain_sha256": 7},
        {**STANDS, "chain_sha256": "abc"},
    ],
)
def test_a_look_that_means_nothing_stops_everything(tmp_path: Path, there: object) -> None:
    with pytest.raises(DeployError, match="nothing that can be understood about a.example.com") as caught:
        bring(tmp_path, {"read_back": {"pairs": {ONE.pair: there}}})
    assert caught.value.remedy
    assert operations(tmp_path) == ["read_back"]


def test_a_look_that_means_nothing_of_one_pair_stops_that_one(tmp_path: Path) -> None:
    other = replace(ONE, pair="b.example.com")
    there = {ONE.pair: 7, other.pair: None}
    program = by_operation(tmp_path, {"read_back": {"pairs": there}, "stage": {"pairs": {other.pair: None}}})
    results = deployer(program).deploy([ONE, other])
    assert results[other.pair] is None
    assert "nothing that can be understood about a.example.com" in str(results[ONE.pair])
    assert operations(tmp_path) == ["read_back", "stage", "activate"]


@pytest.mark.parametrize("error", [{"reason": "busy"}, {"reason": "busy", "retry_after": 9}])
def test_a_program_that_refuses_every_look_is_asked_a_few_times_and_one_that_says_when_only_once(
    tmp_path: Path, error: Mapping[str, object]
) -> None:
    wanted = [replace(ONE, pair=f"p{n}.example.com") for n in range(100)]
    with pytest.raises(DeployError, match="busy"):
        deployer(by_operation(tmp_path, {"read_back": {"error": error}})).deploy(wanted)
    assert len(operations(tmp_path)) <= (1 if "retry_after" in error else 12)


def test_a_program_that_does_not_end_is_asked_once(tmp_path: Path) -> None:
    program = script(tmp_path, "echo asked >> asked; exec sleep 60")
    with pytest.raises(DeployError, match="did not end within"):
        deployer(program, timeout=0.5).deploy([ONE, replace(ONE, pair="b.example.com")])
    assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.parametrize("answer", [{}, {"pairs": {}}, {"pairs": []}, {"pairs": {"b.example.com": None}}])
def test_silence_about_a_pair_is_no_success(tmp_path: Path, answer: object) -> None:
    error = bring(tmp_path, {"read_back": {"pairs": {ONE.pair: None}}, "stage": answer})
    assert error is not None
    assert "nothing about a.example.com" in error.reason
    assert operations(tmp_path) == ["read_back", "stage"]


def test_the_newest_of_several_for_one_pair_counts(tmp_path: Path) -> None:
    program = by_operation(
        tmp_path, {"read_back": {"pairs": {ONE.pair: None}}, "stage": {"pairs": {ONE.pair: None}}}
    )
    older = placement(ONE.pair, 1, 40)
    for order in ([older, ONE], [ONE, older]):
        assert deployer(program).deploy(order) == {ONE.pair: None}
    staged = [request for request in requests(tmp_path) if request["operation"] == "stage"]
    assert [[one["epoch"] for one in request["pairs"]] for request in staged] == [[2], [2]]


def test_many_pairs_are_staged_in_turns_and_activated_once(tmp_path: Path) -> None:
    wanted = [replace(ONE, pair=f"p{n}.example.com") for n in range(401)]
    everything: dict[str, None] = {one.pair: None for one in wanted}
    program = by_operation(tmp_path, {"read_back": {"pairs": everything}, "stage": {"pairs": everything}})
    assert deployer(program).deploy(wanted) == everything
    assert operations(tmp_path) == ["read_back"] * 3 + ["stage"] * 3 + ["activate"]
    assert len(requests(tmp_path)[-1]["pairs"]) == 401


@pytest.mark.parametrize("pair", ["../etc", ".hidden", "a/b", "a\0b", ""])
def test_a_name_that_leads_elsewhere_is_given_to_no_program(tmp_path: Path, pair: str) -> None:
    program = by_operation(tmp_path, {"read_back": {"pairs": {ONE.pair: STANDS}}})
    results = deployer(program).deploy([replace(ONE, pair=pair), ONE])
    assert results[ONE.pair] is None
    assert isinstance(results[pair], DeployError)
    assert deployer(program).read_back([pair, ONE.pair]).keys() == {pair, ONE.pair}
    with pytest.raises(DeployError, match="not a name"):
        deployer(program).remove(pair)
    with pytest.raises(DeployError, match="not a name"):
        deployer(program).purge(pair, Version(1, 1))
    assert all(one["pair"] == ONE.pair for request in requests(tmp_path) for one in request["pairs"])


def test_a_removal_that_leaves_the_pair_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="a.example.com: .* finds it still there"):
        deployer(by_operation(tmp_path, {"read_back": {"pairs": {ONE.pair: STANDS}}})).remove(ONE.pair)


def test_the_example_leaves_alone_what_it_did_not_write(tmp_path: Path) -> None:
    program = write_program(tmp_path / "put-pem", example("put-pem"))
    theirs = tmp_path / "live" / f"{ONE.pair}.pem"
    theirs.parent.mkdir()
    theirs.write_text("of somebody else")
    target = deployer(program, arguments=(str(theirs.parent),))
    with pytest.raises(DeployError):
        target.deploy([ONE])
    with pytest.raises(DeployError):
        target.remove(ONE.pair)
    assert theirs.read_text() == "of somebody else"


def test_an_error_names_the_pair_and_says_when_to_come_back(tmp_path: Path) -> None:
    program = by_operation(tmp_path, {"remove": {"error": {"reason": "busy", "retry_after": 9}}})
    with pytest.raises(DeployError, match="a.example.com: busy") as caught:
        deployer(program).remove(ONE.pair)
    assert caught.value.retry_after == timedelta(seconds=9)
    assert caught.value.remedy


# --- keys ----------------------------------------------------------------------------------------------------

BODY = "".join(line for line in ONE.private_key.decode().splitlines() if not line.startswith("-"))

STAGES = """
case $request in *'"stage"'*) ;; *) echo '{"protocol": 1, "pairs": {"a.example.com": null}}'; exit;; esac
key=$(printf '%s' "$request" | sed 's/.*"private_key": //; s/}.*//')
"""


@pytest.mark.parametrize(
    "tells",
    [
        """printf '%s' "$request" >&2; exit 1""",
        """printf '%s' "$request" | sed 's/.*BEGIN PRIVATE KEY-----//; s/\\\\n//g' >&2; exit 1""",
        """printf '%s' "$request" | sed 's/.*BEGIN PRIVATE KEY-----//; s/\\\\n//g' | fold -w 17 >&2; exit 1""",
        """printf '%s' "$request" | sed 's/.*private_key//'; exit 0""",
        r"""printf '{"protocol": 1, "error": {"reason": %s}}' "$key"; exit 0""",
        r"""printf '{"protocol": 1, "pairs": {"a.example.com": {"reason": %s}}}' "$key"; exit 0""",
    ],
)
def test_a_key_that_a_program_prints_is_not_shown(tmp_path: Path, tells: str) -> None:
    error = deployer(script(tmp_path, f"request=$(cat)\n{STAGES}\n{tells}")).deploy([ONE])[ONE.pair]
    assert error is not None
    shown = all_of(error)
    assert [BODY[at : at + 16] for at in range(len(BODY) - 15) if BODY[at : at + 16] in shown] == []
    assert "a private key, left out" in shown


@pytest.mark.parametrize("before", range(0, 70, 3))
def test_nor_is_one_that_the_cut_has_shortened(tmp_path: Path, before: int) -> None:
    """The last 4096 bytes are kept; somewhere in the key they begin."""
    text = f"request=$(cat)\n{STAGES}\nprintf '%s' \"$request\" | sed 's/.*BEGIN PRIVATE KEY-----//; s/\\\\n//g' >&2\n"
    text += f"head -c {4096 - before} /dev/zero | tr '\\0' ' ' >&2; exit 1"
    error = deployer(script(tmp_path, text)).deploy([ONE])[ONE.pair]
    assert error is not None
    shown = all_of(error)
    assert [BODY[at : at + 5] for at in range(len(BODY) - 4) if BODY[at : at + 5] in shown] == []


# --- the end of dualcert itself ------------------------------------------------------------------------------


def test_a_request_that_was_cut_off_changes_nothing(tmp_path: Path) -> None:
    program = write_program(tmp_path / "put-pem", example("put-pem"))
    described = {
        "protocol": 1,
        "operation": "stage",
        "pairs": [{"pair": "a", "folder": "a", "epoch": 1, "number": 1}],
    }
    half = json.dumps(described)[:-1]
    done = subprocess.run(
        [program, tmp_path / "live"], input=half, text=True, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert not (tmp_path / "live").exists()


DEPLOYS = """
import sys
from pathlib import Path
from dualcert.plugins.deploy.exec import ExecDeployer, ExecOptions
from dualcert.testing.placements import placement
program = Path(sys.argv[1])
ExecDeployer(ExecOptions(program=program, lock=program.with_name("lock"))).deploy([placement("a.example.com")])
"""


def test_a_program_that_outlives_dualcert_keeps_the_lock(tmp_path: Path) -> None:
    """What it still does is older than what comes next, and must come first."""
    program = script(tmp_path, "cat > request; while [ ! -e go ]; do sleep 0.01; done")
    with subprocess.Popen([sys.executable, "-c", DEPLOYS, str(program)]) as process:
        until((tmp_path / "request").exists)
        process.kill()
    with (tmp_path / "lock").open() as lock:
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tmp_path / "go").touch()
        fcntl.flock(lock, fcntl.LOCK_EX)


# --- the guide -----------------------------------------------------------------------------------------------


def shape(value: object) -> object:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__


def test_the_requests_of_the_guide_are_those_that_are_sent(tmp_path: Path) -> None:
    program = by_operation(
        tmp_path, {"read_back": {"pairs": {ONE.pair: None}}, "stage": {"pairs": {ONE.pair: None}}}
    )
    deployer(program).deploy([ONE])
    deployer(program).purge(ONE.pair, ONE.version)
    deployer(program).remove(ONE.pair)
    provider(program).apply(ZONE, {VALUE}, set())
    blocks = [block.partition("```")[0] for block in GUIDE.read_text().split("```json\n")[1:]]
    told = {one["operation"]: one for block in blocks if "operation" in (one := json.loads(block))}
    sent = {one["operation"]: one for one in requests(tmp_path)}
    assert {name: shape(one) for name, one in told.items()} == {
        name: shape(one) for name, one in sent.items()
    }


# --- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": 26.0}, "at most 25"),
        ({"capacity": 0}, "capacity"),
        ({"arguments": ("a\0b",)}, "NUL"),
        ({"environment": ("A=b",)}, "names of variables"),
        ({"environment": ("",)}, "names of variables"),
    ],
)
def test_options_are_checked_early(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DnsOptions(program=Path("program"), **changes)
    with pytest.raises(ValueError, match="at most 3600"):
        DeployOptions(program=Path("program"), lock=Path("lock"), timeout=3601.0)


def test_capacity_is_what_the_options_say(tmp_path: Path) -> None:
    assert provider(tmp_path / "program").capacity is None
    assert provider(tmp_path / "program", capacity=2).capacity == 2
