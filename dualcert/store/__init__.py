"""SQL, and nobody else knows it: tables, units of work, and functions that return what ``model`` defines.

``address`` and ``database`` lead to the driver's connections and to units of work on them. ``statements`` hands texts
to the driver: SQLAlchemy's, put together when they are first asked for, or those of ``ahead``, which were written into
files. What is carried out seldom goes through SQLAlchemy, which ``alchemy`` lays over a connection then.
"""

from dualcert.store.database import Store, database_file
from dualcert.store.transaction import Transaction

__all__ = ["Store", "Transaction", "database_file"]
