"""The story of a pair: inventory, ordering, validation, storing, deployment, promotion, revocation.

``engine`` takes one step of one row of work; ``driver`` runs the engine for a command. Nothing here sleeps.
"""
