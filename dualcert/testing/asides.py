"""What conformance suites need beside their subject."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def all_of(error: BaseException | None) -> str:
    """Whatever of an error may reach a screen or a log."""
    assert error is not None
    return "".join([repr(error), str(error), repr(vars(error)), *traceback.format_exception(error)])
