"""dualcert on a later day than its CAs, which need not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from dualcert import bootstrap
from dualcert.bootstrap import Application
from dualcert.clock import SystemClock
from dualcert.config import Settings


@dataclass
class ShiftedClock(SystemClock):
    """The machine's clock, put forward by what a test has let pass."""

    passed: timedelta = field(default=timedelta(0))

    def now(self) -> datetime:
        return super().now() + self.passed

    def advance(self, by: timedelta) -> None:
        self.passed += by


def built_on(clock: SystemClock, patch: pytest.MonkeyPatch) -> Callable[[Settings], Application]:
    """A ``build`` that wires as always, with another clock."""

    def build(settings: Settings) -> Application:
        with patch.context() as patched:
            patched.setattr(bootstrap, "SystemClock", lambda: clock)
            return bootstrap.build(settings)

    return build
