"""A configuration file is taken whole or refused whole, and then everything that is wrong is said at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dualcert.config.binding import bind
from dualcert.config.durations import Rate
from dualcert.config.loader import load_settings
from dualcert.config.places import configuration_path
from dualcert.config.problems import InvalidConfiguration, Problem
from dualcert.config.settings import Settings
from dualcert.config.template import TEMPLATE, edits, write_template
from dualcert.errors import EXIT_USAGE, ConfigurationError
from dualcert.model.pair import KeyType
from dualcert.plugins.deploy.files.options import FilesOptions
from dualcert.plugins.dns.rfc2136 import Rfc2136Options
from dualcert.plugins.keys.file import FileKeyOptions
from dualcert.ports.options import Secret
from dualcert.store import database_file

WHOLE = """\
database = "sqlite:///state/dualcert.db"

[keys.primary]
protector = "file"
path = "keys/primary.kek"
[keys.backup]
protector = "file"
path = "keys/backup.kek"
[keys.third]
protector = "file"
path = "keys/third.kek"

[ca.alpha]
directory = "https://alpha.example/dir"
contact = ["mailto:ops@example.com"]
terms_agreed = true
ca_bundle = "alpha-api.pem"
trust_roots = "alpha-roots.pem"
eab = { kid = "kid-1", hmac_key = { env = "ALPHA_HMAC" } }
profile = "classic"
preferred_chain = "Root X"
operator = "Alpha Inc."
max_concurrency = 8
new_orders = "300/3h"
per_domain = "50/7d"
failed_authorizations = "5/h"
requests = "200/s"
revocations = "8/s"

[ca.beta]
directory = "https://beta.example/dir"
terms_agreed = true

[ca.gamma]
directory = "https://gamma.example/dir"
keys = "third"
terms_agreed = true

[dns.corp]
provider = "rfc2136"
server = "127.0.0.1"
port = 5353
tsig_secret = { file = "tsig.key" }
resolver = ["127.0.0.1:5353"]
nameservers = ["[::1]:5353"]

[target.web]
deployer = "files"
directory = "live"
reload = ["systemctl", "reload", "nginx"]
endpoint = ["127.0.0.1:443"]

[defaults]
primary = "alpha"
backup = "beta"
spares = ["gamma"]
dns = "corp"
targets = ["web"]
key_type = "ec-p384"
first_wait = "5m"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("alpha-api.pem", "alpha-roots.pem"):
        (tmp_path / name).write_text("pem")
    return tmp_path


def load(folder: Path, text: str) -> Settings:
    file = folder / "dualcert.toml"
    file.write_text(text)
    return load_settings(file)


def problems(folder: Path, text: str) -> dict[str, Problem]:
    with pytest.raises(InvalidConfiguration) as caught:
        load(folder, text)
    assert caught.value.exit_status == EXIT_USAGE
    assert str(folder / "dualcert.toml") in str(caught.value)
    for problem in caught.value.problems:
        assert problem.remedy
        assert problem.key in str(caught.value)
        assert problem.reason in str(caught.value)
        assert problem.remedy in str(caught.value)
    return {problem.key: problem for problem in caught.value.problems}


def replaced(old: str, new: str) -> str:
    assert WHOLE.count(old) >= 1
    return WHOLE.replace(old, new, 1)


# --- what is taken ---------------------------------------------------------------------------------------


def test_a_whole_file_becomes_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(folder, WHOLE)
    assert settings.path == folder / "dualcert.toml"
    assert settings.database == f"sqlite:///{folder}/state/dualcert.db"
    alpha = settings.ca["alpha"]
    assert alpha.directory == "https://alpha.example/dir"
    assert alpha.contact == ("mailto:ops@example.com",)
    assert alpha.ca_bundle == folder / "alpha-api.pem"
    assert alpha.trust_roots == folder / "alpha-roots.pem"
    assert (alpha.profile, alpha.preferred_chain, alpha.operator) == ("classic", "Root X", "Alpha Inc.")
    assert (alpha.max_concurrency, settings.ca["beta"].max_concurrency) == (8, 4)
    assert alpha.new_orders == Rate(300, timedelta(hours=3))
    assert alpha.per_domain == Rate(50, timedelta(days=7))
    assert alpha.failed_authorizations == Rate(5, timedelta(hours=1))
    assert alpha.requests == Rate(200, timedelta(seconds=1))
    assert alpha.revocations == Rate(8, timedelta(seconds=1))
    assert alpha.eab is not None
    assert alpha.eab.kid == "kid-1"
    monkeypatch.setenv("ALPHA_HMAC", "c2VjcmV0")
    assert alpha.eab.hmac_key.reveal() == "c2VjcmV0"

    defaults = settings.defaults
    assert (defaults.primary, defaults.backup, defaults.spares) == ("alpha", "beta", ("gamma",))
    assert (defaults.dns, defaults.targets) == ("corp", ("web",))
    assert (defaults.key_type, defaults.first_wait) == (KeyType.EC_P384, timedelta(minutes=5))

    assert settings.dns["corp"].resolver == ("127.0.0.1:5353",)
    assert settings.dns["corp"].nameservers == ("[::1]:5353",)
    assert settings.target["web"].endpoint == ("127.0.0.1:443",)


def test_a_plugin_is_handed_its_own_keys_only_with_their_places(folder: Path) -> None:
    settings = load(folder, WHOLE)
    dns = settings.dns["corp"].plugin
    assert (dns.kind, dns.name, dns.section, dns.plugin) == ("dns", "corp", "dns.corp", "rfc2136")
    assert dict(dns.raw) == {
        "server": "127.0.0.1",
        "port": 5353,
        "tsig_secret": {"file": "tsig.key"},
    }
    lines = WHOLE.splitlines()
    assert dns.line is not None
    assert lines[dns.line - 1] == "[dns.corp]"
    assert lines[dns.lines["port"] - 1] == "port = 5353"
    assert dict(settings.target["web"].plugin.raw) == {
        "directory": "live",
        "reload": ["systemctl", "reload", "nginx"],
    }
    assert dict(settings.keys["backup"].plugin.raw) == {"path": "keys/backup.kek"}


def test_a_ca_that_says_no_keys_takes_the_domain_of_its_default_role(folder: Path) -> None:
    settings = load(folder, WHOLE)
    assert [settings.ca[name].keys for name in ("alpha", "beta", "gamma")] == ["primary", "backup", "third"]


def test_what_is_unsaid_has_its_default(folder: Path) -> None:
    text = WHOLE
    for line in ('key_type = "ec-p384"', 'first_wait = "5m"', 'spares = ["gamma"]', 'targets = ["web"]'):
        text = text.replace(line, "")
    defaults = load(folder, text).defaults
    assert (defaults.key_type, defaults.first_wait) == (KeyType.EC_P256, timedelta(minutes=10))
    assert (defaults.spares, defaults.targets) == ((), ())


@pytest.mark.parametrize("url", ["sqlite:////var/lib/dualcert.db", "postgresql://user@host/name"])
def test_database_urls_that_are_absolute_stay(folder: Path, url: str) -> None:
    assert load(folder, replaced("sqlite:///state/dualcert.db", url)).database == url


@pytest.mark.parametrize("name", ["what?", "50%25 off", "100%"])
def test_the_database_lies_beside_the_configuration_however_its_folder_is_called(
    folder: Path, name: str
) -> None:
    inside = folder / name
    inside.mkdir()
    for file in folder.glob("*.pem"):
        (inside / file.name).write_text("pem")
    assert database_file(load(inside, WHOLE).database) == inside / "state" / "dualcert.db"


def test_a_database_url_may_be_kept_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://dualcert:kept-elsewhere@host/name"
    monkeypatch.setenv("DATABASE_OF_THIS_TEST", url)
    in_environment = replaced('"sqlite:///state/dualcert.db"', '{ env = "DATABASE_OF_THIS_TEST" }')
    assert load(folder, in_environment).database == url
    (folder / "database.url").touch(mode=0o600)
    (folder / "database.url").write_text(f"{url}\n")
    in_file = replaced('"sqlite:///state/dualcert.db"', '{ file = "database.url" }')
    assert load(folder, in_file).database == url
    (folder / "database.url").chmod(0o644)
    with pytest.raises(ConfigurationError, match="others can read") as caught:
        load(folder, in_file)
    assert "kept-elsewhere" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ('{ env = "NOT_SET_IN_THIS_TEST" }', "NOT_SET_IN_THIS_TEST is not set"),
        ("{ env = 7 }", "must be a text"),
        ('{ url = "postgresql://user:pw-in-clear@host/name" }', "is not a secret"),
        ("{}", "is not a secret"),
        ("7", "must be a text in quotes"),
        ('""', "neither a sqlite:/// nor a postgresql:// URL"),
    ],
)
def test_a_database_that_is_named_in_no_way_that_is_known(folder: Path, value: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match="database") as caught:
        load(folder, replaced('"sqlite:///state/dualcert.db"', value))
    assert word in str(caught.value)
    assert "pw-in-clear" not in str(caught.value)


def test_repr_shows_no_secret(folder: Path) -> None:
    text = replaced('{ env = "ALPHA_HMAC" }', '"hmac-in-clear"').replace(
        '{ file = "tsig.key" }', '"tsig-in-clear"'
    )
    settings = load(folder, replaced_database(text))
    shown = repr(settings)
    assert "in-clear" not in shown
    assert settings.ca["alpha"].eab is not None
    assert settings.ca["alpha"].eab.hmac_key.reveal() == "hmac-in-clear"


def replaced_database(text: str) -> str:
    return text.replace("sqlite:///state/dualcert.db", "postgresql://user:pw-in-clear@host/name")


# --- where it is looked for ------------------------------------------------------------------------------


def test_the_order_of_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = folder / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("DUALCERT_CONFIG", raising=False)
    monkeypatch.setattr("dualcert.config.places.SYSTEM_FILE", folder / "etc.toml")
    assert configuration_path() == here / "dualcert.toml"
    (folder / "etc.toml").write_text("")
    assert configuration_path() == folder / "etc.toml"
    (here / "dualcert.toml").write_text("")
    assert configuration_path() == here / "dualcert.toml"
    monkeypatch.setenv("DUALCERT_CONFIG", "../env.toml")
    assert configuration_path() == here / "../env.toml"
    assert configuration_path(Path("said.toml")) == here / "said.toml"


def test_no_configuration_at_all_says_where_it_was_looked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DUALCERT_CONFIG", raising=False)
    monkeypatch.setattr("dualcert.config.places.SYSTEM_FILE", folder / "etc.toml")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(folder / "dualcert.toml") in str(caught.value)
    assert str(folder / "etc.toml") in str(caught.value)
    assert "dualcert init" in str(caught.value)


def test_what_is_not_toml_names_the_line(folder: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load(folder, 'database = "x"\n[keys.primary\n')
    assert f"{folder}/dualcert.toml, line 2: is not TOML" in str(caught.value)


def test_a_table_that_is_there_twice_is_named_as_it_is_written(folder: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load(folder, "[ca.alpha]\n[ca.alpha]\n")
    assert "line 2: is not TOML: cannot declare [ca.alpha] twice" in str(caught.value)


def test_what_is_not_utf_8(folder: Path) -> None:
    (folder / "dualcert.toml").write_bytes(b'database = "\xff"\n')
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_settings(folder / "dualcert.toml")


# --- what is refused -------------------------------------------------------------------------------------

REFUSED = [
    ("https://alpha.example/dir", "http://alpha.example/dir", "ca.alpha.directory", "not an https URL"),
    ("https://alpha.example/dir", "https:///dir", "ca.alpha.directory", "not an https URL"),
    (
        "https://alpha.example/dir",
        "https://me:hunter2@alpha.example/dir",
        "ca.alpha.directory",
        "names a user",
    ),
    ("terms_agreed = true", "terms_agreed = false", "ca.alpha.terms_agreed", "not agreed"),
    ("terms_agreed = true\n", "", "ca.alpha.terms_agreed", "not agreed"),
    (
        "terms_agreed = true",
        'terms_agreed = "yes"',
        "ca.alpha.terms_agreed",
        "must be true or false, not a text",
    ),
    ("mailto:ops@example.com", "ops@example.com", "ca.alpha.contact[0]", "not a mailto"),
    ('["mailto:ops@example.com"]', '"mailto:ops@example.com"', "ca.alpha.contact", "must be a list"),
    ('"300/3h"', '"300 per 3h"', "ca.alpha.new_orders", "is not a rate"),
    ('"8/s"', "8", "ca.alpha.revocations", "must be a text in quotes, not a number"),
    ("max_concurrency = 8", "max_concurrency = 0", "ca.alpha.max_concurrency", "greater than or equal to 1"),
    ("max_concurrency = 8", "max_concurrency = true", "ca.alpha.max_concurrency", "must be a whole number"),
    ('kid = "kid-1"', 'kid = ""', "ca.alpha.eab.kid", "must not be empty"),
    ('kid = "kid-1", ', "", "ca.alpha.eab.kid", "is missing"),
    ('{ env = "ALPHA_HMAC" }', "{ envy = 1 }", "ca.alpha.eab.hmac_key", "is not a secret"),
    ('"alpha-roots.pem"', '"nowhere.pem"', "ca.alpha.trust_roots", "there is no file"),
    ('first_wait = "5m"', 'first_wait = "5 minutes"', "defaults.first_wait", "is not a duration"),
    ('"ec-p384"', '"ec-p512"', "defaults.key_type", "is not a type of key"),
    ('primary = "alpha"', 'primary = "alfa"', "defaults.primary", "[ca.alfa] is not defined"),
    ('backup = "beta"', 'backup = "delta"', "defaults.backup", "[ca.delta] is not defined"),
    ('backup = "beta"', 'backup = "alpha"', "defaults.backup", "is the same CA"),
    ('spares = ["gamma"]', 'spares = ["alpha"]', "defaults.spares", "is there twice"),
    ('spares = ["gamma"]', 'spares = ["delta"]', "defaults.spares", "[ca.delta] is not defined"),
    ('dns = "corp"', 'dns = "corps"', "defaults.dns", "[dns.corps] is not defined"),
    ('targets = ["web"]', 'targets = ["mail"]', "defaults.targets", "[target.mail] is not defined"),
    ('keys = "third"', 'keys = "fourth"', "ca.gamma.keys", "[keys.fourth] is not defined"),
    ('keys = "third"\n', "", "ca.gamma.keys", "is missing"),
    ("beta.example", "alpha.example", "ca.beta.directory", "are one CA"),
    ("[ca.beta]", '[ca.beta]\nkeys = "primary"', "ca.beta.keys", "share the isolation domain"),
    ("[ca.beta]", '[ca.beta]\noperator = "Alpha Inc."', "ca.beta.operator", "have one operator"),
    ("keys/backup.kek", "keys/primary.kek", "keys.backup", "the same key as [keys.primary]"),
    ("[keys.backup]", "[keys.standby]", "ca.beta.keys", "[keys.backup] is not defined"),
    ('"127.0.0.1:443"', '"127.0.0.1"', "target.web.endpoint[0]", "is not HOST:PORT"),
    ('"127.0.0.1:443"', '"127.0.0.1:0"', "target.web.endpoint[0]", "has no port"),
    ('"[::1]:5353"', '"::1:5353"', "dns.corp.nameservers[0]", "is not HOST:PORT"),
    ('"[::1]:5353"', '"[1:::1]:5353"', "dns.corp.nameservers[0]", "1:::1"),
    ('provider = "rfc2136"\n', "", "dns.corp.provider", "is missing"),
    (
        'protector = "file"\n',
        "protector = 1\n",
        "keys.primary.protector",
        "must be a text in quotes, not a number",
    ),
    ('database = "sqlite:///state/dualcert.db"', "", "database", "is missing"),
    ("sqlite:///state/dualcert.db", "mysql://root:hunter2@host/x", "database", "neither"),
    ("sqlite:///state/dualcert.db", "sqlite:///:memory:", "database", "names no file"),
    ("sqlite:///state/dualcert.db", "sqlite:///", "database", "names no file"),
    ("sqlite:///state/dualcert.db", "sqlite:///a\\u0000", "database", "NUL"),
    ("sqlite:///state/dualcert.db", "postgresql://host/a\\u0000", "database", "NUL"),
    ("[ca.gamma]", '[ca."g m"]', "ca.g m", "is not a name"),
    ("https://alpha.example/dir", "https://alpha.example:port/dir", "ca.alpha.directory", "not an https URL"),
    (
        "https://alpha.example/dir",
        "https://alpha.example:65536/dir",
        "ca.alpha.directory",
        "not an https URL",
    ),
    ("https://alpha.example/dir", "https://[alpha.example/dir", "ca.alpha.directory", "not an https URL"),
    ("https://alpha.example/dir", "https://alpha..example/dir", "ca.alpha.directory", "not an https URL"),
    ('"127.0.0.1:443"', f'"{"w" * 64}.example:443"', "target.web.endpoint[0]", "is not HOST:PORT"),
    ('"127.0.0.1:443"', '"www..example:443"', "target.web.endpoint[0]", "is not HOST:PORT"),
    ("[ca.beta]", '[ca.beta]\ncrl = ["http://crl.example:x/"]', "ca.beta.crl[0]", "not an http URL"),
    ("alpha-api.pem", "~nobody-has-this-name/api.pem", "ca.alpha.ca_bundle", "home of a user"),
    ("alpha-api.pem", "alpha\\u0000.pem", "ca.alpha.ca_bundle", "NUL"),
    ('{ env = "ALPHA_HMAC" }', '{ file = "~nobody-has-this-name/x" }', "ca.alpha.eab.hmac_key", "home of a"),
    ('{ env = "ALPHA_HMAC" }', '{ file = "a\\u0000" }', "ca.alpha.eab.hmac_key", "NUL"),
    ("max_concurrency = 8", f"max_concurrency = {'8' * 5000}", "", "is not TOML"),
    ("contact = [", f"contact = {'[' * 5000}", "", "is not TOML"),
]


@pytest.mark.parametrize(("old", "new", "key", "reason"), REFUSED, ids=[f"{r[2]} {r[3]}" for r in REFUSED])
def test_refused(folder: Path, old: str, new: str, key: str, reason: str) -> None:
    found = problems(folder, replaced(old, new))
    assert key in found, found
    assert reason in found[key].reason
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("old", "new", "key", "nearest"),
    [
        ("database =", "databse =", "databse", "database"),
        ("[defaults]", "[default]", "default", "defaults"),
        ("max_concurrency", "max_concurency", "ca.alpha.max_concurency", "max_concurrency"),
        ("key_type", "keytype", "defaults.keytype", "key_type"),
        ("hmac_key", "hmackey", "ca.alpha.eab.hmackey", "hmac_key"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(
    folder: Path, old: str, new: str, key: str, nearest: str
) -> None:
    problem = problems(folder, replaced(old, new))[key]
    assert problem.reason == "unknown key"
    assert f'did you mean "{nearest}"?' in problem.remedy


def test_all_problems_are_told_at_once_with_their_lines(folder: Path) -> None:
    text = replaced("https://alpha.example/dir", "http://alpha.example").replace("300/3h", "300")
    text = text.replace('dns = "corp"', 'dns = "crop"').replace("[ca.beta]", "[ca.beta]\ncolour = 1")
    found = problems(folder, text)
    assert set(found) == {"ca.alpha.directory", "ca.alpha.new_orders", "ca.beta.colour", "defaults.dns"}
    lines = text.splitlines()
    for key, problem in found.items():
        assert problem.line is not None
        assert lines[problem.line - 1].startswith(key.rpartition(".")[2])


def test_a_table_that_is_wrong_in_itself_still_counts_as_defined(folder: Path) -> None:
    found = problems(folder, replaced("https://beta.example/dir", "ftp://beta.example/dir"))
    assert set(found) == {"ca.beta.directory"}


def test_an_empty_file_says_all_that_is_missing(folder: Path) -> None:
    assert set(problems(folder, "")) == {"database", "keys", "ca", "dns", "defaults"}


@pytest.mark.parametrize("text", ["ca = 1", "[ca]\nalpha = 1", "[[ca.alpha]]\nx = 1", "defaults = []"])
def test_what_should_be_a_table(folder: Path, text: str) -> None:
    assert any("must be" in problem.reason for problem in problems(folder, text).values())


# --- secrets ---------------------------------------------------------------------------------------------


def test_a_secret_that_is_not_there_now_fails_when_it_is_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALPHA_HMAC", raising=False)
    eab = load(folder, WHOLE).ca["alpha"].eab
    assert eab is not None
    with pytest.raises(ConfigurationError) as caught:
        eab.hmac_key.reveal()
    assert "dualcert.toml, ca.alpha.eab.hmac_key" in str(caught.value)
    assert "ALPHA_HMAC is not set" in str(caught.value)


def test_a_secret_file_is_relative_to_the_configuration(folder: Path) -> None:
    (folder / "hmac").write_text("from-file\n")
    (folder / "hmac").chmod(0o600)
    eab = load(folder, replaced('{ env = "ALPHA_HMAC" }', '{ file = "hmac" }')).ca["alpha"].eab
    assert eab is not None
    assert eab.hmac_key.reveal() == "from-file"


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_secret_file_that_others_can_read_is_refused_when_it_is_needed(folder: Path, mode: int) -> None:
    (folder / "hmac").write_text("from-file")
    (folder / "hmac").chmod(mode)
    eab = load(folder, replaced('{ env = "ALPHA_HMAC" }', '{ file = "hmac" }')).ca["alpha"].eab
    assert eab is not None
    with pytest.raises(ConfigurationError, match="others can read") as caught:
        eab.hmac_key.reveal()
    assert "dualcert.toml, ca.alpha.eab.hmac_key" in caught.value.reason
    assert f"chmod 600 {folder / 'hmac'}" in (caught.value.remedy or "")
    assert "from-file" not in str(caught.value)


# --- the template ----------------------------------------------------------------------------------------


def edited_template(folder: Path) -> str:
    for name in ("letsencrypt-staging-roots.pem", "google-staging-roots.pem"):
        (folder / name).write_text("pem")
    return TEMPLATE.replace("terms_agreed = false", "terms_agreed = true").replace('kid = ""', 'kid = "abc"')


def test_the_template_loads_after_a_few_edits(folder: Path) -> None:
    settings = load(folder, edited_template(folder))
    assert (settings.defaults.primary, settings.defaults.backup) == ("letsencrypt", "google")
    assert settings.ca["letsencrypt"].keys == "primary"
    assert settings.ca["google"].keys == "backup"
    assert settings.target["web"].plugin.plugin == "files"


def test_whatever_the_template_lacks_is_marked_for_editing(folder: Path) -> None:
    marked = {edit.key: edit for edit in edits()}
    assert set(problems(folder, TEMPLATE)) <= set(marked)
    lines = TEMPLATE.splitlines()
    for key, edit in marked.items():
        assert lines[edit.line - 1].startswith(key.rpartition(".")[2])


def test_the_templates_commented_settings_are_known_ones(folder: Path) -> None:
    text = edited_template(folder)
    for line in text.splitlines():
        if line.startswith("# ") and " = [" in line:
            text = text.replace(line, line.removeprefix("# "))
    settings = load(folder, text.replace("ops@your-domain", "ops@example.com"))
    assert settings.target["web"].endpoint
    assert settings.dns["main"].resolver
    assert settings.ca["google"].contact


def test_the_templates_plugin_tables_suit_the_plugins(folder: Path) -> None:
    (folder / "tsig.key").write_text("c2VjcmV0LXNlY3JldA==")
    (folder / "tsig.key").chmod(0o600)
    settings = load(folder, edited_template(folder))
    dns = bind(Rfc2136Options, settings.dns["main"].plugin)
    files = bind(FilesOptions, settings.target["web"].plugin)
    keys = bind(FileKeyOptions, settings.keys["backup"].plugin)
    assert (dns.server, dns.tsig_secret) == ("192.0.2.53", Secret("c2VjcmV0LXNlY3JldA=="))
    assert files.directory == folder / "live"
    assert keys.path == folder / "keys/backup.kek"


def test_the_template_is_written_once_and_closed_to_others(folder: Path) -> None:
    file = folder / "new" / "dualcert.toml"
    assert write_template(file) == edits()
    assert file.read_text() == TEMPLATE
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("mine")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_template(file)
    assert file.read_text() == "mine"
