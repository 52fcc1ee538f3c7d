"""Who signs the events of this process."""

from __future__ import annotations

import os
import pwd
import socket


def actor() -> str:
    """The person at this machine."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
