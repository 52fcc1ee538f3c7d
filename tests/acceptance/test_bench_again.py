"""A Pebble that stands still for good costs a run of the bench one part's time, and not all that was measured."""

from __future__ import annotations

import os
import signal

import pytest

from bench.stage import Stage, Stages


def test_a_part_is_measured_again_on_new_servers(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Stage] = []

    def part(stage: Stage) -> str:
        seen.append(stage)
        if len(seen) == 1:
            os.kill(stage.servers.alpha.process.pid, signal.SIGSTOP)
            raise TimeoutError
        return "measured"

    with Stages() as stages:
        assert stages.measure("pair", part) == "measured"
        assert stages.measure("four", part) == "measured"
    assert seen[0] is not seen[1]
    assert seen[1] is seen[2]
    assert "pair: alpha stood still (TimeoutError); again on new servers" in capsys.readouterr().err


def test_what_is_wrong_for_another_reason_is_told() -> None:
    def part(_: Stage) -> str:
        raise RuntimeError("a fault")

    with Stages() as stages, pytest.raises(RuntimeError, match="a fault"):
        stages.measure("pair", part)
