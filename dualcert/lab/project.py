"""The folder of one dualcert beside a lab's servers: ``dualcert.toml``, two KEKs, and room for the rest."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from dualcert.lab.files import write_secret, write_text
from dualcert.lab.servers import EAB_FILE, TSIG_FILE, LabServers

CONFIG_FILE = "dualcert.toml"
_KEK_BYTES = 32

_CONFIG = """\
# Written by the lab for the servers that it started; they and their ports are gone when it ends.
database = "sqlite:///dualcert.db"

[keys.primary]
protector = "file"
path = "keys/primary.kek"

[keys.backup]
protector = "file"
path = "keys/backup.kek"

[ca.alpha]
directory = {alpha_directory}
keys = "primary"
contact = ["mailto:ops@example.test"]
terms_agreed = true
ca_bundle = {alpha_api}
trust_roots = {alpha_roots}
{alpha_profile}
[ca.beta]
directory = {beta_directory}
keys = "backup"
contact = ["mailto:ops@example.test"]
terms_agreed = true
ca_bundle = {beta_api}
trust_roots = {beta_roots}
eab = {{ kid = {kid}, hmac_key = {{ file = {eab_file} }} }}
{beta_profile}
[dns.lab]
provider = "rfc2136"
server = {dns_server}
port = {dns_port}
tsig_name = {tsig_name}
tsig_algorithm = "hmac-sha256"
tsig_secret = {{ file = {tsig_file} }}
nameservers = [{nameserver}]

[target.web]
deployer = "files"
directory = "live"
endpoint = [{endpoint}]

[defaults]
primary = "alpha"
backup = "beta"
dns = "lab"
targets = ["web"]
"""


def write_project(directory: Path, servers: LabServers, endpoint: str) -> Path:
    """Write the configuration and the KEKs (0600, only where there are none); the configuration's path."""
    for domain in ("primary", "backup"):
        kek = directory / "keys" / f"{domain}.kek"
        if not kek.exists():
            write_secret(kek, base64.b64encode(secrets.token_bytes(_KEK_BYTES)).decode() + "\n")
    return write_text(directory / CONFIG_FILE, _render(directory, servers, endpoint))


def _render(directory: Path, servers: LabServers, endpoint: str) -> str:
    def path(file: Path) -> str:
        """As the configuration wants it: relative to itself where both lie in one folder."""
        return _string(str(file.relative_to(directory) if file.is_relative_to(directory) else file))

    alpha, beta, bind = servers.alpha, servers.beta, servers.bind
    return _CONFIG.format(
        alpha_directory=_string(alpha.directory_url),
        alpha_api=path(alpha.api_ca_pem),
        alpha_roots=path(alpha.roots_pem),
        alpha_profile=_profile(list(alpha.profiles)),
        beta_directory=_string(beta.directory_url),
        beta_api=path(beta.api_ca_pem),
        beta_roots=path(beta.roots_pem),
        beta_profile=_profile(list(beta.profiles)),
        kid=_string(beta.eab.kid if beta.eab else ""),
        eab_file=path(servers.directory / EAB_FILE),
        dns_server=_string(bind.address),
        dns_port=bind.port,
        tsig_name=_string(bind.tsig_name),
        tsig_file=path(servers.directory / TSIG_FILE),
        nameserver=_string(f"{bind.address}:{bind.port}"),
        endpoint=_string(endpoint),
    )


def _profile(names: list[str]) -> str:
    # With several to choose from Pebble draws lots; with one, leaving it out is what most configurations do.
    return f"profile = {_string(names[0])}\n" if len(names) > 1 else ""


def _string(text: str) -> str:
    """A TOML basic string: what JSON escapes, TOML reads."""
    return json.dumps(text, ensure_ascii=False)
