"""The pairs of a plan by zone, as far as it is known without asking DNS: the registered domain of their first names.

What a registrar delegates is a zone; where others begin below it only DNS knows.
"""

from __future__ import annotations

from collections import defaultdict

from dualcert.lifecycle.budgeting import registered_domain
from dualcert.model.names import reversed_name
from dualcert.store import Transaction, incident_plans, incident_zones

MOST = 1000
"""How many zones are told apart, the largest ones; of millions nobody wants to read."""

OTHERS = "others"
_DEEPEST = 6
"""Labels; no public suffix has as many."""


def grouped(tx: Transaction, incident_id: int, plan: int, most: int = MOST) -> dict[str, dict[str, int]]:
    """How many pairs of each action, by zone, the largest first; what is beyond ``most`` together at the end."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    above: list[str] | None = None
    for labels in range(2, _DEEPEST + 1):
        rows = incident_zones.by_domain(tx, incident_id, plan, labels, above, most)
        above = []
        for suffix, actions in rows:
            host = reversed_name(suffix)
            if labels < _DEEPEST and _is_suffix(host):
                above.append(suffix)
                continue
            for action, number in actions.items():
                found[registered_domain(host)][action] += number
        if not above:
            break
    rest = incident_plans.actions(tx, incident_id, plan)
    largest = sorted(found.items(), key=lambda one: (-sum(one[1].values()), one[0]))[:most]
    shown = {zone: dict(sorted(actions.items())) for zone, actions in largest}
    for actions in shown.values():
        for action, number in actions.items():
            rest[action] -= number
    others = {action: number for action, number in sorted(rest.items()) if number > 0}
    return {**shown, OTHERS: others} if others else shown


def _is_suffix(host: str) -> bool:
    below = f"x.{host}"
    return registered_domain(below) == below
