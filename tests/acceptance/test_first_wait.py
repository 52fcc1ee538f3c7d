"""A first issuance whose backup is there before its primary."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.labfixture import ProjectLab
from tests.program import Program


def test_once_the_primary_has_come_nothing_waits_for_it_any_more(lab: ProjectLab, program: Program) -> None:
    configured = lab.config_path.read_text()
    nobody = configured.replace(lab.alpha.directory_url, "https://127.0.0.1:1/dir")
    lab.config_path.write_text(nobody)
    assert program.run("issue", lab.domain, "--timeout", "6").status == 3
    lab.config_path.write_text(configured)

    pair = program.done("issue", lab.domain, "--json").json

    assert (pair["protection"], pair["primary"]["ca"]) == ("protected", "alpha")
    with closing(sqlite3.connect(lab.directory / "dualcert.db")) as connection:
        assert connection.execute("SELECT kind, due_at FROM work").fetchall() == []
