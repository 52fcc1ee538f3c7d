"""Where challenge records go, and whether the world sees them.

``names`` says which record a name is validated at, ``zones`` finds the zone that holds it and looks at its servers;
``exchange`` carries questions and answers, ``wire`` writes and reads them (dnspython), ``addresses`` names servers.
Nothing here waits for propagation: a look is one look, and whoever wants another one comes again.
"""

from __future__ import annotations

from dualcert.dcv.names import Location, challenge_name
from dualcert.dcv.zones import Sight, Zones

__all__ = ["Location", "Sight", "Zones", "challenge_name"]
