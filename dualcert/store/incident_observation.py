"""When the targets of what an incident has promoted were seen with what serves since then, whoever looked."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Subquery,
    and_,
    case,
    exists,
    func,
    or_,
    select,
)

from dualcert.model.events import EventKind
from dualcert.model.incident import RowState
from dualcert.model.work import WorkKind
from dualcert.store.incident_tables import plan_row
from dualcert.store.tables import deployment, event, pair_target, work

_row = plan_row.c
_there = deployment.c


def _since() -> ColumnElement[bool]:
    # What took the new certificate's place counts too: it is not the one that had to leave.
    return and_(_there.epoch > _row.epoch, _there.certificate_id != _row.serving)


def _had() -> ColumnElement[bool]:
    """Of what was at a target before: it still was when the pair was promoted."""
    return and_(_there.epoch <= _row.epoch, or_(_there.left_at.is_(None), _there.left_at > _row.at))


def _at_target(*more: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether what serves since a row's promotion came to a target of its pair."""
    here = (_there.pair_id == pair_target.c.pair_id, _there.target == pair_target.c.target)
    return exists().where(*here, _since(), *more)


def seen() -> ColumnElement[bool]:
    """Whether every target of a promoted row's pair was seen with what serves since then."""
    there = _at_target(_there.verified_at.is_not(None))
    all_of_them = (
        select(func.min(case((there.correlate(pair_target, plan_row), 1), else_=0)))
        .where(pair_target.c.pair_id == _row.pair_id)
        .correlate(plan_row)
        .scalar_subquery()
    )
    # Where there are none now, there were some, maybe, when it was promoted: only then is the rest looked at.
    before = case((or_(_first_seen(whole=True).is_not(None), _had_none()), 1), else_=0)
    return func.coalesce(all_of_them, before) == 1


def is_observed() -> ColumnElement[bool]:
    """What a run has seen, and what was seen by others since."""
    return or_(_row.state == RowState.OBSERVED.value, and_(_row.state == RowState.PROMOTED.value, seen()))


def is_deployed() -> ColumnElement[bool]:
    """Whether what serves since then lies at every target of a promoted row's pair, or once did."""
    # What failed may have come there all the same: its arrival is written down, and its step is still there. Where it
    # was seen, the step that fails is one of what came later.
    failing = exists().where(
        work.c.pair_id == pair_target.c.pair_id,
        work.c.kind == WorkKind.DEPLOYMENT.value,
        work.c.target == pair_target.c.target,
        work.c.attempts > 0,
    )
    verified = _at_target(_there.verified_at.is_not(None)).correlate(pair_target, plan_row)
    there = _at_target().correlate(pair_target, plan_row)
    lacking = or_(~there, and_(failing.correlate(pair_target), ~verified))
    missing = exists().where(pair_target.c.pair_id == _row.pair_id, lacking).correlate(plan_row)
    promoted = _row.state == RowState.PROMOTED.value
    return or_(_row.state == RowState.OBSERVED.value, and_(promoted, ~missing))


def observed_at() -> ColumnElement[int | None]:
    """When the pair of an observed row had been seen at every target for the first time. Where it has had none since
    its promotion there was nothing to see, and that is all."""
    return func.coalesce(_at_once(), _first_seen(whole=False), case((_had_none(), _row.at)))


def observed_how() -> ColumnElement[str | None]:
    """How it was seen until then: by the weaker of the two where its targets were seen in both ways."""
    return (
        select(func.min(_there.how))
        .where(_there.pair_id == _row.pair_id, _since(), _there.verified_at <= observed_at())
        .correlate(plan_row)
        .scalar_subquery()
    )


def without_targets() -> ColumnElement[bool]:
    """Whether a row's pair has no target, be it that the pair was removed."""
    return ~exists().where(pair_target.c.pair_id == _row.pair_id).correlate(plan_row)


def _had_none() -> ColumnElement[bool]:
    """Whether the pair has had no target since its promotion. One that was taken away is being left, or was, and either
    is told."""
    here = or_(_there.epoch > _row.epoch, _had())
    leaving = work.c.kind == WorkKind.REMOVAL.value
    left = and_(event.c.kind == EventKind.LEFT_TARGET.value, event.c.at >= _row.at)
    return and_(
        without_targets(),
        ~exists().where(_there.pair_id == _row.pair_id, here).correlate(plan_row),
        ~exists().where(work.c.pair_id == _row.pair_id, leaving).correlate(plan_row),
        ~exists().where(event.c.pair_id == _row.pair_id, left).correlate(plan_row),
    )


def _targets() -> Subquery:
    """For each target when it was served, 0 where something was there when the pair was promoted; when it was seen, and
    when nothing of the pair was there any more."""
    served = func.min(case((_had(), 0), (_since(), _there.arrived_at)))
    gone = case((func.count() == func.count(_there.left_at), func.max(_there.left_at)))
    return (
        select(
            _there.target,
            served.label("served"),
            gone.label("gone"),
            func.min(case((_since(), _there.verified_at))).label("seen"),
        )
        .where(_there.pair_id == _row.pair_id)
        .group_by(_there.target)
        .having(served.is_not(None))
        .correlate(plan_row)
        .subquery("targets")
    )


def _came(each: Any) -> ColumnElement[int]:
    """Since when a target counts: from the beginning where the pair had it when it was promoted, though nothing may
    have been there yet; another one since it was served."""
    given = exists().where(
        event.c.pair_id == _row.pair_id,
        event.c.kind == EventKind.GIVEN_TARGET.value,
        event.c.target == each.target,
        event.c.at >= _row.at,
        event.c.at <= each.served,
    )
    # The history is looked at only of targets that had nothing.
    return case((each.served == 0, 0), (given.correlate_except(event), each.served), else_=0)


def _at_once() -> ScalarSelect[Any]:
    """When the last was seen, where all targets were served before the first was seen, as nearly everywhere: there is
    nothing to put in order."""
    each = _targets().c
    usual = and_(func.count() == func.count(each.seen), func.max(each.served) <= func.min(each.seen))
    return select(case((usual, func.max(each.seen)))).correlate(plan_row).scalar_subquery()


def _first_seen(*, whole: bool) -> ScalarSelect[Any]:
    """When all targets had been seen that counted by then; what came later does not move it.

    ``whole``: each of them must have been. Otherwise one that was taken from the pair counts as seen when it was left:
    nothing of the pair was to be seen there from then on.
    """
    targets = _targets().c
    each = select(_came(targets).label("came"), targets.gone, targets.seen).subquery("each_target").c
    so_far: dict[str, Any] = {"order_by": each.came}
    known = func.count(each.seen).over(**so_far)
    steps = select(
        func.max(func.coalesce(each.seen, each.gone)).over(**so_far).label("at"),
        func.lead(each.came).over(**so_far).label("next"),
        (known == func.count().over(**so_far) if whole else known > 0).label("done"),
    ).subquery("steps")
    over = or_(steps.c.next.is_(None), steps.c.next > steps.c.at)
    return select(func.min(steps.c.at)).where(steps.c.done, over).correlate(plan_row).scalar_subquery()
