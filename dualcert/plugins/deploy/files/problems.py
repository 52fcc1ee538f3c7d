"""What the operating system said, as an error that tells an operator what to mend."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualcert.errors import DeployError

_NO_SPACE = "free space or inodes on that file system; the next run deploys again"
_NO_RIGHT = "give the user that runs dualcert the right to write there"
_REMEDIES = {
    errno.EROFS: "mount that file system writable, or point the target's `directory` elsewhere",
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`, LimitFSIZE=) of the process that runs dualcert",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`, LimitNOFILE=) of the process that runs dualcert",
    errno.EXDEV: "keep the target's `directory` and its .versions folder on one file system",
    errno.EIO: "the disk is failing: look into the kernel's log",
}
_OTHERWISE = "mend that and run `dualcert renew --due`"


@contextmanager
def explained(action: str, path: Path, *, pair: str | None = None) -> Iterator[None]:
    """Turn an ``OSError`` into a DeployError that names the action, the place, the reason and the remedy."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        remedy = _REMEDIES.get(error.errno or 0, _OTHERWISE)
        raise DeployError(f"cannot {action} {path}: {why}", remedy=remedy, name=pair) from error
