"""Deployers: each brings one kind of target to serve given certificates (``dualcert.ports.deploy``)."""
