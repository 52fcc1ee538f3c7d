"""The file that ``dualcert init`` writes where there is none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dualcert.errors import ConfigurationError

TEMPLATE: Final = """\
# dualcert: two certificates for every set of names, from two CAs, under two keys.
#
# Lines marked EDIT need your own values. Relative paths are relative to this file. Where a secret is wanted,
# write { file = "PATH" } (mode 0600), { env = "NAME" }, or the text itself.

# What dualcert knows: pairs, certificates, wrapped keys, events. Made by `dualcert init`. For several machines:
# "postgresql://user@host/name" (docs/postgresql.md), with a password in { file = ... } or { env = ... }.
database = "sqlite:///dualcert.db"

# --- Two isolation domains. The key of each wraps the private keys of one CA's certificates and its account
# --- key: whoever learns one of the two opens one side only. Keep copies of both files, in two places.

[keys.primary]
protector = "file"                  # a key in a file; made by `dualcert init`, mode 0600
path = "keys/primary.kek"

[keys.backup]
protector = "file"
path = "keys/backup.kek"

# --- The two CAs. These are the test environments of two public ones: all is as in production, but no browser
# --- trusts the certificates. For real ones take the production directories and delete both trust_roots.

[ca.letsencrypt]
directory = "https://acme-staging-v02.api.letsencrypt.org/directory"
# production: "https://acme-v02.api.letsencrypt.org/directory"
terms_agreed = false                # EDIT: true, once you have read https://letsencrypt.org/repository/
# contact = ["mailto:ops@your-domain"]  # where the CA may write to; optional
trust_roots = "letsencrypt-staging-roots.pem"  # EDIT: put the test roots there, one PEM after the other;
# links: https://letsencrypt.org/docs/staging-environment/
# What the CA counts, shared by all processes on one database; docs/budgets.md says more. A key that is left out is
# not counted here, and the CA's own word (429, Retry-After) is obeyed all the same.
new_orders = "300/3h"               # orders for sets of names that are new to it
per_domain = "50/7d"                # certificates for such sets, under one registered domain
failed_authorizations = "5/h"       # of one name
requests = "200/s"                  # of any kind
revocations = "8/s"

[ca.google]
directory = "https://dv.acme-v02.test-api.pki.goog/directory"
# production: "https://dv.acme-v02.api.pki.goog/directory"
terms_agreed = false                # EDIT: true, once you have read https://pki.goog/repository/
# contact = ["mailto:ops@your-domain"]
trust_roots = "google-staging-roots.pem"  # EDIT: put the root of Google's test environment there
# An external account binding ties the account to your Google Cloud project. It is good for one account, and
# for a few days only: ask for it when you are ready to issue. For the test environment:
#   gcloud config set api_endpoint_overrides/publicca https://preprod-publicca.googleapis.com/
#   gcloud publicca external-account-keys create
# https://cloud.google.com/certificate-manager/docs/public-ca-tutorial
[ca.google.eab]
kid = ""                            # EDIT: keyId of the answer
hmac_key = { file = "google.hmac" } # EDIT: b64MacKey of the answer, in this file, mode 0600

# --- DNS: both CAs look for a TXT record at _acme-challenge.NAME. Nothing but its own values is ever removed.

[dns.main]
provider = "rfc2136"                # dynamic updates, signed with TSIG: BIND, Knot, PowerDNS
server = "192.0.2.53"               # EDIT: the primary name server of your zones
port = 53
tsig_name = "dualcert"              # EDIT: the name of the TSIG key there
tsig_algorithm = "hmac-sha256"
tsig_secret = { file = "tsig.key" } # EDIT: its secret (base64), in this file, mode 0600
# resolver = ["192.0.2.53:53"]      # who finds zones and follows CNAMEs; unsaid: server and port above
# nameservers = ["192.0.2.53:53"]   # who must show a value before a CA may look; unsaid: the zone's NS

# --- Where certificates are served from.

[target.web]
deployer = "files"                  # live/PAIR/{cert,chain,fullchain,privkey,bundle}.pem, switched at once
directory = "live"
# reload = ["systemctl", "reload", "nginx"]  # run after a switch; not needed if the server looks by itself
# endpoint = ["127.0.0.1:443"]      # where to look, with a TLS handshake, whether the certificate is served

# --- What a new pair takes. A pair that exists keeps what it was made with.

[defaults]
primary = "letsencrypt"             # its certificate serves
backup = "google"                   # its certificate stands ready
spares = []                         # further CAs, to take the place of one that is lost
dns = "main"
targets = ["web"]
key_type = "ec-p256"                # ec-p256, ec-p384, rsa-2048, rsa-3072 or rsa-4096
first_wait = "10m"                  # how long a first backup waits for the primary before it serves instead
"""


@dataclass(frozen=True)
class Edit:
    """A line of the template that needs a value of the user's own."""

    line: int
    key: str
    hint: str


def edits(text: str = TEMPLATE) -> tuple[Edit, ...]:
    """What is left to edit, read from the comments that say so; keys are dotted."""
    found: list[Edit] = []
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("["):
            table = line.strip("[] ")
        setting, mark, hint = line.partition("# EDIT: ")
        if mark and "=" in setting:
            key = setting.partition("=")[0].strip()
            found.append(Edit(number, f"{table}.{key}" if table else key, hint.rstrip(";")))
    return tuple(found)


def write_template(path: Path) -> tuple[Edit, ...]:
    """Write the template, mode 0600, where there is no file yet; what to edit in it.

    An existing file is never touched: ConfigurationError, as for a folder that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(TEMPLATE)
    except OSError as error:
        # Half a file would be kept as one that stands.
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from None
    return edits()


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: cannot be written: {error.strerror}",
        remedy="name a file in a folder of your own: dualcert --config FILE init",
    )
