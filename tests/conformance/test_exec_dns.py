"""The exec DNS provider with the example of its guide, against BIND."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Set
from dataclasses import replace
from pathlib import Path

import pytest

from dualcert.plugins.dns.exec import ExecOptions, ExecProvider
from dualcert.ports.dns import DnsProvider, TxtValue
from dualcert.testing.dns import DnsProviderConformance
from tests.bindserver import KEY, BindServer, bind, free_port
from tests.conformance.exec_examples import example, write_program
from tests.conformance.test_rfc2136 import OTHER_SECRET, RECORDS, ZONE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindServer]:
    with bind(tmp_path_factory.mktemp("bind"), {ZONE: RECORDS}) as running:
        yield running


class TestExecProvider(DnsProviderConformance):
    plugin = ExecProvider

    @pytest.fixture(autouse=True)
    def _places(self, server: BindServer, tmp_path: Path) -> None:
        self.server = server
        self.folder = tmp_path
        program = write_program(tmp_path / "txt-update", example("txt-update"))
        key = self.key_file("key", server.key)
        self.options = ExecOptions(program=program, arguments=("127.0.0.1", str(server.port), str(key)))

    def key_file(self, name: str, secret: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(f"{KEY} hmac-sha256 {secret}\n")
        return path

    def provider(self) -> DnsProvider:
        return ExecProvider(self.options)

    def zone(self) -> str:
        return ZONE

    def read(self, name: str) -> Set[str]:
        return self.server.read(name)

    def write_as_somebody_else(self, value: TxtValue) -> None:
        self.server.write(ZONE, value)

    def unknown_zone(self) -> str:
        return "nobody.test"

    def with_bad_credentials(self) -> DnsProvider:
        other = self.key_file("other", OTHER_SECRET)
        return ExecProvider(replace(self.options, arguments=(*self.options.arguments[:2], str(other))))

    def unreachable(self) -> DnsProvider:
        _, _, key = self.options.arguments
        return ExecProvider(replace(self.options, arguments=("127.0.0.1", str(free_port()), key)))

    def throttled(self) -> DnsProvider | None:
        answer = {"protocol": 1, "error": {"kind": "throttled", "reason": "slow down", "retry_after": 7}}
        busy = write_program(self.folder / "busy", f"#!/bin/sh\ncat > seen\necho '{json.dumps(answer)}'\n")
        return ExecProvider(replace(self.options, program=busy))

    def secrets(self) -> Collection[str]:
        return [self.server.key, OTHER_SECRET]
