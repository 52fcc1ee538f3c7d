"""What a CA's table may say, and what building the client costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from dualcert.acmeclient import AcmeCaSettings
from dualcert.errors import ConfigurationError
from dualcert.ports.options import Secret


@pytest.mark.parametrize(
    "directory", ["http://ca.example.test/dir", "ca.example.test", "https://", "", "file:///etc/passwd"]
)
def test_a_directory_is_https(directory: str) -> None:
    with pytest.raises(ConfigurationError, match="https") as caught:
        AcmeCaSettings(name="alpha", directory=directory)
    assert "[ca.alpha]" in str(caught.value)


@pytest.mark.parametrize("half", [{"eab_kid": "kid-1"}, {"eab_hmac_key": Secret("hidden-key")}])
def test_half_a_binding_is_refused(half: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="external account binding") as caught:
        AcmeCaSettings(name="alpha", directory="https://ca.example.test/dir", **half)
    assert "hidden-key" not in str(caught.value)


def test_the_binding_key_is_not_shown() -> None:
    settings = AcmeCaSettings(
        name="alpha",
        directory="https://ca.example.test/dir",
        eab_kid="kid-1",
        eab_hmac_key=Secret("hidden-key"),
    )
    assert "hidden-key" not in repr(settings)


def test_building_a_client_imports_nothing_heavy() -> None:
    program = """
import sys
from dualcert.acmeclient import AcmeCa, AcmeCaSettings
from dualcert.clock import SystemClock
AcmeCa(AcmeCaSettings(name="alpha", directory="https://ca.example.test/dir"), SystemClock())
light = set(sys.modules)
import dualcert.acmeclient.transport, dualcert.acmeclient.signing, dualcert.acmeclient.links
heavy = set(sys.modules)
print(sorted(light & {"acme", "josepy", "cryptography", "http.client", "ssl", "urllib3", "requests"}))
print(sorted(heavy & {"acme.messages", "acme.client", "requests", "OpenSSL"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
