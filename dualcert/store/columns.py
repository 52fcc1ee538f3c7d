"""Between instants and the integers that the database holds."""

from __future__ import annotations

from datetime import datetime
from typing import overload

from dualcert.clock import from_microseconds, to_microseconds


@overload
def micros(instant: datetime) -> int: ...
@overload
def micros(instant: None) -> None: ...
def micros(instant: datetime | None) -> int | None:
    return None if instant is None else to_microseconds(instant)


@overload
def instant(value: int) -> datetime: ...
@overload
def instant(value: None) -> None: ...
def instant(value: int | None) -> datetime | None:
    return None if value is None else from_microseconds(value)
