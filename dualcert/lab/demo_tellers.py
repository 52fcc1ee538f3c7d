"""How the demo is told: live on a terminal, as plain lines in a pipe, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

INTRODUCTION = (
    "dualcert keeps two certificates for every set of names, from two CAs, under",
    "two keys. One serves, the other stands ready. When the CA of the one that",
    "serves revokes it, nothing is ordered in a hurry: the other takes its place.",
    "",
    "Here that happens, on this machine alone. alpha and beta are test CAs (Pebble),",
    "DNS is BIND, the web server is nginx. Every command below is really run.",
)


@dataclass(frozen=True)
class Standing:
    """Who holds what now. ``alpha``/``beta``: a word each; ``nginx``: whose certificate it shows."""

    alpha: str
    beta: str
    nginx: str
    verdict: str
    good: bool


@dataclass(frozen=True)
class StepResult:
    """One step as it went. ``seen`` says what was seen, or what was not as it should be."""

    name: str
    seconds: float
    ok: bool
    seen: str


class Teller(Protocol):
    """Told what happens while it happens."""

    def introduce(self) -> None: ...
    def step(self, number: int, count: int, title: str) -> None: ...
    def command(self, text: str) -> None: ...
    def working(self) -> AbstractContextManager[None]:
        """Around what takes a while."""
        ...

    def event(self, seconds: float, who: str, what: str) -> None: ...
    def fact(self, text: str) -> None: ...
    def ended(self, result: StepResult) -> None: ...
    def standing(self, now: Standing) -> None: ...
    def conclude(self, results: Sequence[StepResult], words: str) -> None: ...


class SilentTeller:
    """For ``--json``."""

    def introduce(self) -> None: ...
    def step(self, number: int, count: int, title: str) -> None: ...
    def command(self, text: str) -> None: ...
    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def event(self, seconds: float, who: str, what: str) -> None: ...
    def fact(self, text: str) -> None: ...
    def ended(self, result: StepResult) -> None: ...
    def standing(self, now: Standing) -> None: ...
    def conclude(self, results: Sequence[StepResult], words: str) -> None: ...


class PlainTeller:
    """Plain lines for a pipe or a file; ``write`` takes a line without its end."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def introduce(self) -> None:
        for line in INTRODUCTION:
            self._write(line)

    def step(self, number: int, count: int, title: str) -> None:
        self._write("")
        self._write(f"{number}/{count}  {title}")

    def command(self, text: str) -> None:
        self._write(f"     $ {text}")

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def event(self, seconds: float, who: str, what: str) -> None:
        self._write(f"     {seconds:5.2f} s  {who:<5}  {what}")

    def fact(self, text: str) -> None:
        self._write(f"     {text}")

    def ended(self, result: StepResult) -> None:
        self._write(f"     {result.seconds:5.2f} s  {_word(result)}: {result.seen}")

    def standing(self, now: Standing) -> None:
        self._write(f"     now: alpha {now.alpha}, beta {now.beta}, nginx shows {now.nginx}: {now.verdict}")

    def conclude(self, results: Sequence[StepResult], words: str) -> None:
        self._write("")
        self._write(f"{'STEP':<15}  {'SECONDS':>7}  {'':<6}  SEEN")
        for one in results:
            self._write(f"{one.name:<15}  {one.seconds:7.2f}  {_word(one):<6}  {one.seen}")
        self._write("")
        self._write(words)


class LiveTeller:
    """Colours, a spinner while a command works, and a table at the end."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        plain = not self._console.encoding.startswith("utf")
        self._on, self._off = ("*", "o") if plain else ("●", "○")
        self._bad, self._arrow = ("x", "->") if plain else ("✗", "→")

    def introduce(self) -> None:
        self._console.print()
        for line in INTRODUCTION:
            self._say(line)

    def step(self, number: int, count: int, title: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{number}/{count}  {title}[/]", align="left", style="dim")

    def command(self, text: str) -> None:
        from rich.markup import escape

        self._say(f"  [bold cyan]$ {escape(text)}[/]")

    @contextmanager
    def working(self) -> Iterator[None]:
        with self._console.status("", spinner="line", spinner_style="cyan"):
            yield

    def event(self, seconds: float, who: str, what: str) -> None:
        from rich.markup import escape

        self._say(f"  [dim]{seconds:6.2f} s  {who:<5}  {escape(what)}[/]")

    def fact(self, text: str) -> None:
        from rich.markup import escape

        self._say(f"  {escape(text)}")

    def ended(self, result: StepResult) -> None:
        from rich.markup import escape

        colour = "green" if result.ok else "bold red"
        self._say(
            f"  [dim]{result.seconds:6.2f} s[/]  [{colour}]{_word(result)}[/]  [bold]{escape(result.seen)}[/]"
        )

    def standing(self, now: Standing) -> None:
        parts = [self._holder("alpha", now.alpha), self._holder("beta", now.beta)]
        parts.append(f"nginx {self._arrow} [bold]{now.nginx}[/]")
        parts.append(f"[bold {'green' if now.good else 'red'}]{now.verdict}[/]")
        self._say("  " + "   ".join(parts))

    def conclude(self, results: Sequence[StepResult], words: str) -> None:
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("step", no_wrap=True)
        table.add_column("")
        table.add_column("what was seen")
        table.add_column("seconds", justify="right", no_wrap=True)
        for one in results:
            word = f"[{'green' if one.ok else 'bold red'}]{_word(one)}[/]"
            table.add_row(one.name, word, escape(one.seen), f"{one.seconds:.2f}")
        self._console.print()
        self._console.print(table)
        self._say(f"[bold]{escape(words)}[/]")

    def _holder(self, ca: str, word: str) -> str:
        mark, colour = {
            "serves": (self._on, "green"),
            "ready": (self._off, "green"),
        }.get(word, (self._bad, "red"))
        return f"{ca} [{colour}]{mark} {word}[/]"

    def _say(self, markup: str) -> None:
        self._console.print(markup, soft_wrap=True)


def _word(result: StepResult) -> str:
    return "ok" if result.ok else "FAILED"
