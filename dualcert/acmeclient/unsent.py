"""Which failures have kept a request from leaving: then the CA has counted nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dualcert.errors import CaError


@contextmanager
def before_it_leaves() -> Iterator[None]:
    """What fails in here is what a request needs first: the directory, a nonce."""
    try:
        yield
    except CaError as error:
        error.sent = False
        raise
