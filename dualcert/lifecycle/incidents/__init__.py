"""Incidents: naming what must leave service, planning it, carrying the plan out, telling how far it is.

``open_incident`` and ``plan`` are what others call; ``running`` turns a plan into promotions, wave by wave.
"""

from dualcert.lifecycle.incidents.opening import add_to_incident, close, open_incident
from dualcert.lifecycle.incidents.planning import Plan, newest_plan, plan

__all__ = ["Plan", "add_to_incident", "close", "newest_plan", "open_incident", "plan"]
