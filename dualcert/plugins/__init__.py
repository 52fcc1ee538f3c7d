"""The built-in plugins, one module per provider, found by entry points like everybody else's."""
