"""What is shown of a program's words, when its request is not read, and who holds its lock: of DNS programs."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from dualcert.plugins.plaintext import end_of, start_of
from dualcert.ports.dns import TxtValue
from tests.conformance.test_exec_programs import VALUE, ZONE, change, provider, script, until

MOST = 500


def test_no_more_is_shown_of_a_wrong_answer_than_its_beginning(tmp_path: Path) -> None:
    reason = change(script(tmp_path, "cat > /dev/null; head -c 1500 /dev/zero | tr '\\0' Q")).reason
    assert "is no JSON object" in reason
    assert reason.count("Q") == MOST


@pytest.mark.parametrize("much", [MOST - 1, MOST, MOST + 1, 4 * MOST, 4 * MOST + 1, 40 * MOST])
def test_of_a_text_its_beginning_or_its_end_is_shown(much: int) -> None:
    text = "".join(f"{number:08} " for number in range(much))[:much]
    started, ended = start_of(text.encode(), MOST), end_of(text.encode(), MOST, whole=True)
    assert started == text[:MOST].strip()
    assert ended == text[-MOST:].strip()


def test_a_program_may_close_its_request_long_before_it_answers(tmp_path: Path) -> None:
    """The request is larger than what a pipe holds. The pause makes sure that somebody is writing when it is closed."""
    many = {TxtValue(f"_acme-challenge.n{n}.example.com", "v" * 200) for n in range(3000)}
    program = script(tmp_path, """exec 0<&-; sleep 0.2; echo '{"protocol": 1}'; touch answered""")
    provider(program).apply(ZONE, many, set())
    assert (tmp_path / "answered").exists()


PUBLISHES = """
import sys
from pathlib import Path
from dualcert.plugins.dns.exec import ExecOptions, ExecProvider
from dualcert.ports.dns import TxtValue
program = Path(sys.argv[1])
value = TxtValue(sys.argv[2], sys.argv[3])
ExecProvider(ExecOptions(program=program, lock=program.with_name("lock"))).apply("example.com", {value}, set())
"""


def test_a_program_that_outlives_dualcert_keeps_the_lock(tmp_path: Path) -> None:
    """What it still changes is older than what comes next, and must come first."""
    program = script(tmp_path, "cat > request; while [ ! -e go ]; do sleep 0.01; done")
    with subprocess.Popen(
        [sys.executable, "-c", PUBLISHES, str(program), VALUE.name, VALUE.value]
    ) as process:
        until((tmp_path / "request").exists)
        process.kill()
    with (tmp_path / "lock").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tmp_path / "go").touch()
        fcntl.flock(lock, fcntl.LOCK_EX)
