"""What a command is handed: the global options, and settings and application once it asks for them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from dualcert.bootstrap import Application, Settings
    from dualcert.cli import Build


class Context:
    """One run of one command. Nothing is read or connected before it is asked for."""

    def __init__(self, build: Build | None = None) -> None:
        self.config: Path | None = None
        self.json = False
        self.verbosity = 0
        self.log_format = "text"
        self._build = build

    def merge(self, name: str, value: Any) -> None:
        """Take a global option in; said on both sides of the command, ``-v`` adds up and the later one counts."""
        if name == "verbosity":
            value += self.verbosity
        elif name == "config":
            from pathlib import Path

            value = Path(value)
        setattr(self, name, value)

    def start(self) -> None:
        """All options are known now."""
        from dualcert.cli import logs

        logs.configure(self.verbosity, self.log_format)

    @cached_property
    def settings(self) -> Settings:
        """The configuration. Raises ConfigurationError."""
        from dualcert.bootstrap import load_settings

        return load_settings(self.config)

    @cached_property
    def application(self) -> Application:
        """The application over these settings, closed when the command ends."""
        build = self._build
        if build is None:
            from dualcert.bootstrap import build as wire

            build = wire
        return build(self.settings)

    def close(self) -> None:
        # A cached_property that was asked for stands in the instance's dictionary.
        application = self.__dict__.pop("application", None)
        if application is not None:
            application.close()
