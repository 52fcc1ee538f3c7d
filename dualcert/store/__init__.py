"""SQL, and nobody else knows it: tables, units of work, and functions that return what ``model`` defines."""

from dualcert.store.database import Store, database_file
from dualcert.store.transaction import Transaction

__all__ = ["Store", "Transaction", "database_file"]
