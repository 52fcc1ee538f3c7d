"""What can go wrong with the lab."""

from __future__ import annotations

from dualcert.errors import DualcertError


class LabError(DualcertError):
    """A server of the lab is missing, too old, does not start, or does not answer."""


class PortTaken(LabError):
    """Another program took a port between its reservation and the server's start; new ports will do."""
