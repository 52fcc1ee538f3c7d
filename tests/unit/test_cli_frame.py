"""The frame of the command line: what is imported, where options stand, what becomes of errors and output."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dualcert.cli import main
from dualcert.cli.commands import COMMANDS
from dualcert.cli.context import Context
from dualcert.cli.frame import CONTEXT_SETTINGS, Lazy, LazyGroup, run
from dualcert.cli.output import Column, print_columns, print_json, print_json_lines
from dualcert.config.template import TEMPLATE

HEAVY = {"sqlalchemy", "alembic", "acme", "josepy", "dns", "pydantic", "rich", "requests", "cryptography"}

# Commands of the test's own, in a module that only the frame's lazy loading imports.
COMMANDS_MODULE = """
import logging, os, signal, sys, time
import click
from dualcert.cli.frame import Command, Group, pass_context
from dualcert.cli.output import print_json, print_json_lines, say
from dualcert.errors import CaUnreachable, Refused

log = logging.getLogger("dualcert.sample")

@click.command("look", cls=Command)
@click.argument("name", required=False)
@pass_context
def look(context, name):
    print_json({"config": context.config, "json": context.json, "verbosity": context.verbosity,
                "log_format": context.log_format, "name": name})

@click.group("nested", cls=Group)
def nested():
    pass

nested.add_command(look)

@click.command("partly", cls=Command)
@pass_context
def partly(context):
    return 3

@click.command("fail", cls=Command)
@click.argument("how")
@pass_context
def fail(context, how):
    if how == "refused":
        raise Refused("the backup is expired", remedy="renew it: dualcert renew x", name="x", ca="beta")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "unexpected":
        raise RuntimeError("two\\nlines")
    if how == "exit":
        raise SystemExit(0)
    if how == "signal":
        raise Ended(143)
    if how == "mute":
        raise Mute

class Ended(SystemExit):
    pass

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("not even this")

@click.command("talk", cls=Command)
@pass_context
def talk(context):
    about = {"pair": "example.com", "ca": "alpha", "work": 7}
    log.debug("details", extra=about)
    log.info("done", extra=about)
    log.warning("careful")
    for name in ("acme.client", "urllib3.connectionpool", "requests", "dns.query", "josepy", "alembic"):
        logging.getLogger(name).debug("a body with a key")
        logging.getLogger(name).info("a body with a key")
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("something went wrong")

@click.command("many", cls=Command)
@pass_context
def many(context):
    print_json_lines({"n": n} for n in range(200_000))

@click.command("wait", cls=Command)
@pass_context
def wait(context):
    say("waiting")
    sys.stdout.flush()
    signal.pause()
"""
NAMES = ("look", "nested", "partly", "fail", "talk", "many", "wait")


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LazyGroup:
    (tmp_path / "sample_commands.py").write_text(COMMANDS_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sample_commands", raising=False)
    commands = {name: Lazy(f"sample_commands:{name}", f"The command {name}.") for name in NAMES}
    return LazyGroup("dualcert", commands=commands, context_settings=CONTEXT_SETTINGS)


@pytest.fixture(autouse=True)
def logging_restored() -> object:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.raiseExceptions
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    logging.raiseExceptions = before[2]


def process(tmp_path: Path, *arguments: str) -> list[str]:
    """The sample commands as a process of their own."""
    (tmp_path / "sample_commands.py").write_text(COMMANDS_MODULE)
    program = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from dualcert.cli.context import Context
        from dualcert.cli.frame import Lazy, LazyGroup, run
        commands = {{name: Lazy("sample_commands:" + name, name) for name in {NAMES!r}}}
        sys.exit(run(LazyGroup("dualcert", commands=commands), sys.argv[1:], Context()))
    """
    return [sys.executable, "-c", textwrap.dedent(program), *arguments]


# --- what is imported ------------------------------------------------------------------------------------


def imported(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import dualcert.cli, dualcert.cli.commands",
        "from dualcert.cli import main\nassert main(['--help']) == 0",
        "from dualcert.cli import main\nassert main(['db', 'upgrade', '--help']) == 0",
        "from dualcert.cli import main\nassert main(['init', '--help']) == 0",
    ],
)
def test_the_command_line_imports_nothing_heavy(code: str) -> None:
    assert not imported(code) & HEAVY


def test_help_imports_no_command() -> None:
    code = "from dualcert.cli import main\nassert main(['--help']) == 0"
    code += "\nassert not [n for n in sys.modules if n in {'dualcert.cli.init', 'dualcert.cli.db', 'dualcert.lab'}]"
    imported(code)


def test_help_lists_every_command_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert set(COMMANDS) == {
        "init", "check", "issue", "pair", "remove", "renew", "failover", "revoke", "list", "show", "events",
        "export", "chain", "account", "keys", "run", "db", "lab", "watch", "drill", "compromise", "incident",
        "freeze", "thaw", "distrust",
    }  # fmt: skip


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dualcert 0.")


# --- global options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "--config a.toml --json -vv --log-format json look x",
        "look --config a.toml --json -vv --log-format json x",
        "look x --config a.toml --json -vv --log-format json",
        "--config a.toml -v look x --json -v --log-format json",
        "--json nested --config a.toml -v look x -v --log-format json",
        "--config b.toml --log-format text nested --json -v look -v --log-format json --config a.toml x",
    ],
)
def test_global_options_stand_before_or_after_the_command(
    group: LazyGroup, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(group, arguments.split(), Context()) == 0
    assert json.loads(capsys.readouterr().out) == {
        "config": "a.toml",
        "json": True,
        "verbosity": 2,
        "log_format": "json",
        "name": "x",
    }


def test_unsaid_global_options(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["look"], Context()) == 0
    assert json.loads(capsys.readouterr().out) == {
        "config": None,
        "json": False,
        "verbosity": 0,
        "log_format": "text",
        "name": None,
    }


@pytest.mark.parametrize(
    "arguments", [[], ["lok"], ["look", "--jsn"], ["look", "a", "b"], ["--log-format", "xml", "look"]]
)
def test_usage_errors_end_with_2_on_stderr(
    group: LazyGroup, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(group, arguments, Context()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: dualcert" in captured.err


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["look", "\udcff.example"], "\\xff.example"), (["--config", "\udcc3\udcbc", "look"], "ü")],
)
def test_an_argument_that_is_no_text_is_a_usage_problem(
    group: LazyGroup, arguments: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(group, arguments, Context()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {shown} cannot be read as text\n")


def test_a_mistyped_command_is_answered_with_the_nearest(
    group: LazyGroup, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(group, ["lok"], Context()) == 2
    assert "look" in capsys.readouterr().err


# --- exit status and errors ------------------------------------------------------------------------------


def test_what_a_command_returns_is_the_exit_status(group: LazyGroup) -> None:
    assert run(group, ["partly"], Context()) == 3


def test_an_error_tells_what_where_and_what_to_do(
    group: LazyGroup, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(group, ["--json", "fail", "refused"], Context()) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: x, CA beta: the backup is expired\n  renew it: dualcert renew x\n"


def test_the_unexpected_is_one_line(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["fail", "unexpected"], Context()) == 1
    assert capsys.readouterr().err == (
        "internal error: RuntimeError: two lines; run with -vv for the traceback\n"
    )


def test_the_traceback_is_in_the_log_at_vv(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["fail", "unexpected", "-vv"], Context()) == 1
    captured = capsys.readouterr().err
    assert captured.startswith("internal error: RuntimeError: two lines\n")
    assert "Traceback" in captured
    assert "sample_commands.py" in captured


def test_an_error_without_a_text_is_one_line_too(
    group: LazyGroup, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(group, ["fail", "mute"], Context()) == 1
    told = "internal error: Mute: (Mute without a text); run with -vv for the traceback\n"
    assert capsys.readouterr().err == told


def test_an_exit_from_below_is_no_success(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["fail", "exit"], Context()) == 1
    told = "internal error: UnforeseenExit: sys.exit(0) was called; run with -vv for the traceback\n"
    assert capsys.readouterr().err == told


def test_who_is_ended_by_a_signal_ends(group: LazyGroup) -> None:
    with pytest.raises(SystemExit) as ended:
        run(group, ["fail", "signal"], Context())
    assert ended.value.code == 143


def test_an_error_without_a_text_is_logged(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["fail", "mute", "-vv"], Context()) == 1
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert "sample_commands.py" in captured


def test_interrupted(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["fail", "interrupt"], Context()) == 130
    assert "interrupted" in capsys.readouterr().err


def test_interrupted_by_a_signal(tmp_path: Path) -> None:
    child = subprocess.Popen(
        process(tmp_path, "wait"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in errors


def test_interrupted_while_modules_load() -> None:
    code = """
import sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
from dualcert.cli import entry
entry()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


def run_with_streams(closed: str, code: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$0" -c "$1" init --config "$2" {closed}', sys.executable, code, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_works_whichever_streams_are_closed(tmp_path: Path, closed: str) -> None:
    config = tmp_path / "dualcert.toml"
    done = run_with_streams(closed, "from dualcert.cli import entry; entry()", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert config.exists()


@pytest.mark.parametrize("closed", CLOSED)
def test_no_file_gets_the_number_of_a_stream(tmp_path: Path, closed: str) -> None:
    code = "import sys; from dualcert.cli import open_streams; open_streams(); file = open(sys.argv[-1], 'w')"
    done = run_with_streams(closed, f"{code}; print('lost'); sys.exit(file.fileno() <= 2)", tmp_path / "it")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    child = subprocess.Popen(
        process(tmp_path, "many"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == '{"n": 0}\n'
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 141


@pytest.mark.parametrize("command", ["many", "look", "--help"])
def test_output_that_cannot_be_written_is_said(tmp_path: Path, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            process(tmp_path, command), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: the output cannot be written: No space left on device\n")
    assert "Exception" not in answer.stderr


def test_the_version_that_cannot_be_written_is_an_error_like_others() -> None:
    code = "import sys; from dualcert.cli import entry; sys.argv[1:] = ['--version']; entry()"
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: the output cannot be written: No space left on device\n")


# --- logs ------------------------------------------------------------------------------------------------


def test_logs_are_quiet_without_v(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["talk"], Context()) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "warning dualcert.sample: careful",
        "error dualcert.sample: something went wrong (ValueError: inner)",
    ]


def test_v_tells_what_is_done_and_about_what(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["talk", "-v"], Context()) == 0
    errors = capsys.readouterr().err
    assert "info dualcert.sample: done [pair=example.com ca=alpha work=7]" in errors
    assert "details" not in errors
    assert "Traceback" not in errors


def test_vv_as_json_keeps_the_libraries_quiet(group: LazyGroup, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, ["talk", "-vv", "--log-format", "json"], Context()) == 0
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {record["logger"] for record in records} == {"dualcert.sample"}
    assert [record["level"] for record in records] == ["debug", "info", "warning", "error"]
    assert (records[0]["pair"], records[0]["ca"], records[0]["work"]) == ("example.com", "alpha", 7)
    assert records[0]["at"].endswith("Z")
    assert "Traceback" in records[3]["traceback"]


def test_logging_is_set_up_once_however_many_commands_run(
    group: LazyGroup, capsys: pytest.CaptureFixture[str]
) -> None:
    run(group, ["talk"], Context())
    run(group, ["talk", "-v"], Context())
    capsys.readouterr()
    run(group, ["talk"], Context())
    assert capsys.readouterr().err.count("careful") == 1


# --- output ----------------------------------------------------------------------------------------------


def test_json_is_written_in_the_order_given(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    print_json({"z": at, "a": b"\x00\xab", "none": None, "for": timedelta(seconds=2), "at": Path("/x")})
    assert capsys.readouterr().out == (
        '{"z": "2026-03-01T12:00:00Z", "a": "00ab", "none": null, "for": 2.0, "at": "/x"}\n'
    )
    print_json_lines({"n": n} for n in range(1001))
    assert [json.loads(line)["n"] for line in capsys.readouterr().out.splitlines()] == list(range(1001))


def test_columns_keep_their_places_and_cut_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column("PAIR", 12), Column("DAYS", 4, right=True), Column("STATE")]
    print_columns(
        columns, iter([("example.com", 90, "serving"), ("a-very-long-name.example", None, b"\xff")])
    )
    assert capsys.readouterr().out.splitlines() == [
        "PAIR          DAYS  STATE",
        "example.com     90  serving",
        "a-very-long-name.example     -  ff",
    ]


# --- init and db -----------------------------------------------------------------------------------------


def edit(file: Path) -> None:
    for name in ("letsencrypt-staging-roots.pem", "google-staging-roots.pem"):
        (file.parent / name).write_text("pem")
    text = TEMPLATE.replace("terms_agreed = false", "terms_agreed = true").replace('kid = ""', 'kid = "abc"')
    file.write_text(text)


def test_init_writes_a_configuration_and_then_makes_what_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dualcert.toml"
    assert main(["--config", str(file), "init"]) == 0
    shown = capsys.readouterr().out
    assert file.read_text() == TEMPLATE
    assert "ca.google.terms_agreed" in shown
    assert "run `dualcert init` again" in shown
    assert not (tmp_path / "keys").exists()

    edit(file)
    assert main(["init", "--config", str(file), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    keys = [tmp_path / "keys/primary.kek", tmp_path / "keys/backup.kek"]
    assert sorted(made["keys"]) == sorted(str(key) for key in keys)
    assert made["database"]["made"] is True
    assert (tmp_path / "dualcert.db").exists()
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}

    before = [key.read_bytes() for key in keys]
    assert main(["init", "--config", str(file), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["keys"], again["database"]["made"]) == ([], False)
    assert [key.read_bytes() for key in keys] == before


def test_init_refuses_a_configuration_that_stands_and_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dualcert.toml"
    assert main(["--config", str(file), "init"]) == 0
    capsys.readouterr()
    assert main(["--config", str(file), "init"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ca.google.eab.kid: must not be empty" in captured.err
    assert file.read_text() == TEMPLATE


def test_init_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--config", str(tmp_path / "file" / "dualcert.toml"), "init"]) == 2
    assert "dualcert.toml: cannot be written: " in capsys.readouterr().err


def test_db_upgrade_and_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dualcert.toml"
    edit(file)
    config = ["--json", "--config", str(file)]
    assert main([*config, "db", "current"]) == 1
    expected = json.loads(capsys.readouterr().out)["expected"]
    assert not (tmp_path / "dualcert.db").exists(), "looking makes nothing"
    assert main([*config, "db", "upgrade"]) == 0
    assert json.loads(capsys.readouterr().out) == {"before": None, "after": expected}
    assert main([*config, "db", "current"]) == 0
    assert json.loads(capsys.readouterr().out) == {"found": expected, "expected": expected}
    with closing(sqlite3.connect(tmp_path / "dualcert.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    assert main([*config[1:], "db", "current"]) == 1
    assert "install the dualcert that made this revision" in capsys.readouterr().out


def test_the_console_script_is_the_same_program(tmp_path: Path) -> None:
    code = "from dualcert.cli import entry; entry()"
    answer = subprocess.run(
        [sys.executable, "-c", code, "db", "current"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "DUALCERT_CONFIG"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: no configuration: looked for ")
    assert "Traceback" not in answer.stderr
