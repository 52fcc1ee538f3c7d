"""DNS providers: they add and remove exact TXT values (``dualcert.ports.dns``)."""
