"""Key protectors: each keeps the KEKs of isolation domains in one kind of place (``dualcert.ports.keys``)."""
