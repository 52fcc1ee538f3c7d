"""How fast dualcert is, and against what: ``python -m bench`` (or ``make bench``).

``results`` says what is written; ``stage`` sets up servers and projects; ``floor`` is the bare script that an issuance
is measured against, ``lego`` the other program; ``issuance``, ``failovers``, ``commands``, ``names`` and ``renewing``
measure. Everything is compared within one run, the two sides taking turns, and the medians count.

What must not depend on how many pairs there are is measured with few and with a million, on SQLite and PostgreSQL
(``postgres``): ``inventory`` writes them into the tables, ``rows`` and ``specimens`` invent them, ``databases`` has
them side by side, ``daemon`` measures.
"""
