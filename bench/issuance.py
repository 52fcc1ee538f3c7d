"""A pair issued inside a warm process, against the bare script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

from bench.floor import Account, Floor
from bench.results import Goal, Result, result
from bench.stage import ZONE, Stage, in_turns, seconds
from dualcert.lifecycle import inventory, views
from dualcert.lifecycle.driver import Scope, run_until
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.inventory import PairRequest
from dualcert.lifecycle.world import World
from dualcert.model.pair import Pair

AT_ONCE = 4
_WARM_UP = 6
_numbers = count(1)


def fresh_name(kind: str) -> str:
    return f"{kind}-{next(_numbers)}.{ZONE}"


def issue(world: World, name: str, targets: tuple[str, ...] = ()) -> float:
    """Seconds from a pair whose orders are due to one that has both certificates, its TXT values withdrawn."""
    pair = inventory.ensure(world, PairRequest((name,), targets=targets))
    took = seconds(lambda: drive(world, pair))
    check(world, pair)
    return took


def drive(world: World, pair: Pair) -> None:
    deadline = world.clock.now() + timedelta(seconds=60)
    run_until(Engine(world), Scope(frozenset([pair.id]), inventory.ISSUING), deadline)


def check(world: World, pair: Pair) -> None:
    if not views.whole(views.describe(world, pair)):
        raise RuntimeError(f"{pair.name} was not issued")


@contextmanager
def floors(stage: Stage, number: int) -> Iterator[list[Floor]]:
    accounts = [Account(stage.servers.alpha), Account(stage.servers.beta)]
    with ExitStack() as stack:
        made = [Floor(stage.servers, accounts, ZONE, stage.folder / "floor.db") for _ in range(number)]
        for floor in made:
            stack.callback(floor.close)
        yield made


def one_pair(stage: Stage, rounds: int) -> list[Result]:
    with stage.project("one") as project, project.application() as application, floors(stage, 1) as (floor,):
        world = application.world
        sides: list[Callable[[int], float]] = [
            lambda _: issue(world, fresh_name("pair")),
            lambda _: seconds(lambda: floor.in_turn(fresh_name("turn"))),
            lambda _: seconds(lambda: floor.in_threads(fresh_name("threads"))),
            lambda _: issue(world, fresh_name("served"), ("web",)),
        ]
        in_turns(_WARM_UP, *sides)
        pair, turn, threads, served = in_turns(rounds, *sides)
    best, which = min((turn, "in turn"), (threads, "in threads"))
    other, other_name = max((turn, "in turn"), (threads, "in threads"))
    against = (f"floor.py, both orders {which}", best * 1000)
    return [
        result(
            "a pair issued by run_until",
            pair * 1000,
            "ms",
            against=against,
            goal=Goal.at_most(pair / best, 1.5, "x"),
        ),
        result("  the other floor", other * 1000, "ms", against=(f"floor.py {other_name}", other * 1000)),
        result("  the same, deployed and seen by a handshake as well", served * 1000, "ms", against=against),
    ]


def four_at_once(stage: Stage, rounds: int, pairs: int = 24) -> list[Result]:
    """Pairs a second, ``AT_ONCE`` of them under way at any time. Their orders are due before the clock runs."""

    def each(act: Callable[[Any], object], subjects: Sequence[Any]) -> float:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return seconds(lambda: list(threads.map(act, subjects))) / len(subjects)

    with stage.project("four") as project, project.application() as application:
        world = application.world
        with floors(stage, AT_ONCE) as made:
            free = list(made)

            def bare(name: str) -> None:
                floor = free.pop()
                floor.in_turn(name)
                free.append(floor)

            def full(_: int) -> float:
                due = [
                    inventory.ensure(world, PairRequest((fresh_name("full"),), targets=()))
                    for _ in range(pairs)
                ]
                took = each(lambda pair: drive(world, pair), due)
                for pair in due:
                    check(world, pair)
                return took

            sides = [full, lambda _: each(bare, [fresh_name("bare") for _ in range(pairs)])]
            in_turns(1, *sides)
            mine, floor_time = in_turns(rounds, *sides)
    return [
        result(
            "pairs a second, 4 under way",
            1 / mine,
            "pairs/s",
            against=("floor.py in 4 threads", 1 / floor_time),
            goal=Goal.at_least(round(100 * floor_time / mine, 1), 70, "%"),
        )
    ]
