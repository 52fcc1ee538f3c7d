"""How fast dualcert is, and against what: ``python -m bench`` (or ``make bench``).

``results`` says what is written; ``stage`` sets up servers and projects; ``floor`` is the bare script that an issuance
is measured against, ``lego`` the other program; ``issuance``, ``failovers``, ``commands`` and ``inventory`` measure.
Everything is compared within one run, the two sides taking turns, and the medians count.
"""
