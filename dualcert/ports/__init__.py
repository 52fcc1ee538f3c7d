"""What dualcert asks of the outside: one Protocol per kind of plugin, whose prose is the contract.

Every kind has a conformance suite in ``dualcert.testing``; a plugin that passes it may be relied upon.
"""
