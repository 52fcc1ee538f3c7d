"""Plugins that other distributions bring."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from tests.conformance import plugin_examples
from tests.labfixture import ProjectLab
from tests.oddplugins import installed
from tests.program import Program, Result, finish

_MODULE = """
from dualcert.plugins.keys.file import FileKeyProtector


class Vault(FileKeyProtector):
    pass
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder in which a distribution with a protector is installed."""
    (tmp_path / "vaults.py").write_text(_MODULE)
    about = tmp_path / "vaults-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vaults\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dualcert.key_protectors]\nvault = vaults:Vault\n")
    return tmp_path


def listed_with(program: Program, protector: str, elsewhere: Path) -> Result:
    """What `list` comes to where the backup's keys are kept by this protector."""
    before, backup, after = program.config.read_text().partition("[keys.backup]\n")
    after = after.replace('protector = "file"', f'protector = "{protector}"', 1)
    program.config.write_text(before + backup + after)
    return finish(program.start("list", environment={"PYTHONPATH": str(elsewhere)}))


def test_a_plugin_of_another_distribution_is_used_beside_a_built_in_one(
    program: Program, elsewhere: Path
) -> None:
    assert listed_with(program, "vault", elsewhere).status == 0


def test_a_plugin_that_nobody_brings_is_refused_with_those_that_there_are(
    program: Program, elsewhere: Path
) -> None:
    refused = listed_with(program, "safe", elsewhere)
    assert refused.status == 2
    assert "'safe', which is not installed" in refused.err
    assert "There is: file, vault." in refused.err


def test_the_examples_of_the_page_are_installed_and_configured_as_it_says(
    program: Program, tmp_path: Path
) -> None:
    """Each is made by its entry point, from its table, and looked at."""
    folder = tmp_path / "site"
    folder.mkdir()
    plugin_examples.install(folder)
    with program.config.open("a") as file:
        file.write(plugin_examples.example("configuration"))
    token = program.config.parent / "hosting.token"
    token.touch(0o600)
    token.write_text("a token")
    environment = {"PYTHONPATH": str(folder), "VAULT_KEK": base64.b64encode(bytes(range(32))).decode()}

    checked = finish(program.start("check", "--json", environment=environment))

    found = {one["subject"]: one["problem"] for one in checked.lines}
    assert {name: found[name] for name in ("dns.hosting", "target.edge", "keys.vault")} == dict.fromkeys(
        ("dns.hosting", "target.edge", "keys.vault")
    )
    environment["VAULT_KEK"] = "too short"
    refused = finish(program.start("list", environment=environment))
    assert refused.status == 2
    assert "kek is not 32 bytes in base64" in refused.err


def test_of_a_kek_that_is_kept_elsewhere_check_tells_only_what_is_known(
    lab: ProjectLab, program: Program, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    plugin_examples.install(folder)
    text = program.config.read_text()
    table = re.search(r"\[keys\.backup\]\n.*?(?=\n\[|\n\n)", text, re.DOTALL)
    assert table is not None
    given = '[keys.backup]\nprotector = "given"\nkek = { env = "VAULT_KEK" }'
    program.config.write_text(text.replace(table[0], given))

    def run(kek: int, *arguments: str) -> Result:
        one = base64.b64encode(bytes([kek] * 32)).decode()
        return finish(program.start(*arguments, environment={"PYTHONPATH": str(folder), "VAULT_KEK": one}))

    assert run(1, "issue", lab.domain).status == 0
    fine, lost = run(1, "check"), run(2, "check")

    assert "ok       keys.backup: KEK " in fine.out
    assert "PROBLEM  keys.backup: a private key of this domain does not open" in lost.out
    assert "Bring back the KEK that it was wrapped under." in lost.out
    for told in (fine.out, lost.out):
        assert "nobody else can read" not in told
        assert "keys/ of a backup" not in told


# --- plugins that are none -------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    """An environment in which a distribution of odd plugins is installed."""
    folder = tmp_path / "odd"
    folder.mkdir()
    return {"PYTHONPATH": str(installed(folder))}


def add_tables(program: Program) -> None:
    """A table for each of them that can be used beside those that are well."""
    tables = [f'[dns.{name}]\nprovider = "{name}"\n' for name in ("gone", "keyboom", "exitboom", "lost")]
    tables += [
        f'[target.{name}]\ndeployer = "{plugin}"\n'
        for name, plugin in (("odd", "odd"), ("leaving", "leaving-target"), ("stumbling", "stumbling-target"))
    ]
    program.config.write_text(program.config.read_text() + "\n" + "\n".join(tables))


def test_check_tells_what_each_plugin_lacks_and_looks_at_all_the_rest(
    program: Program, odd: dict[str, str]
) -> None:
    add_tables(program)

    result = finish(program.start("check", "--json", environment=odd))

    assert result.status == 2
    found = {line["subject"]: line for line in result.lines}
    for subject, words in {
        "dns.gone": "'gone' (odd_nowhere:Dns), which cannot be loaded: ModuleNotFoundError: No module named",
        "dns.keyboom": "'keyboom' (odd_keyboom:Dns), which cannot be loaded: KeyError: 'MY_ENV'",
        "dns.exitboom": "'exitboom' (odd_exitboom:Dns), which cannot be loaded: SystemExit: 0",
        "target.odd": "the plugin of [target.odd] failed unforeseen: TypeError: it gave back a int",
        "target.leaving": "the plugin of [target.leaving] failed unforeseen: SystemExit: 0",
        "target.stumbling": "the plugin of [target.stumbling] failed unforeseen: KeyError: 'where'",
    }.items():
        assert words in found[subject]["problem"], found[subject]
        assert found[subject]["remedy"]
    for subject in (
        "database",
        "ca.alpha",
        "ca.beta",
        "dns.lab",
        "target.web",
        "keys.primary",
    ):
        assert found[subject]["ok"], found[subject]


@pytest.mark.parametrize("dns", ["gone", "keyboom", "exitboom"])
def test_issue_names_the_table_of_a_plugin_that_is_none(
    program: Program, odd: dict[str, str], dns: str
) -> None:
    add_tables(program)

    result = finish(program.start("issue", "odd.example.test", "--dns", dns, environment=odd))

    assert result.status == 2
    assert f"[dns.{dns}] names the plugin '{dns}' (odd_" in result.err
    assert "internal error" not in result.err


def test_resolvers_that_are_none_are_told_as_the_plugins(program: Program, odd: dict[str, str]) -> None:
    add_tables(program)

    result = finish(program.start("issue", "odd.example.test", "--dns", "lost", environment=odd))

    assert result.status == 1
    words = "the plugin of [dns.lost] failed unforeseen: TypeError: its resolvers are no tuple of texts"
    assert words in result.err


@pytest.mark.parametrize(
    ("protector", "words"),
    [
        ("nameless", "the plugin of [keys.backup] failed unforeseen: SystemExit"),
        ("numbered", "the plugin of [keys.backup] names its KEK by 7"),
    ],
)
def test_a_protector_whose_kek_has_no_name_is_named(
    program: Program, odd: dict[str, str], protector: str, words: str
) -> None:
    before, _, after = program.config.read_text().partition("[keys.backup]\n")
    table, mark, rest = after.partition("\n[")
    assert "path" in table
    program.config.write_text(f'{before}[keys.backup]\nprotector = "{protector}"\n{mark}{rest}')

    listed = finish(program.start("list", environment=odd))
    looked = finish(program.start("check", "--json", environment=odd))

    assert listed.status == 2
    assert f"error: {words}" in listed.err
    found = {line["subject"]: line for line in looked.lines}
    assert words in found["keys.backup"]["problem"]
    assert not found["keys"]["ok"]
    assert found["keys.primary"]["ok"]
    assert found["dns.lab"]["ok"]
