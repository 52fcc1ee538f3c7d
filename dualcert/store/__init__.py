"""SQL, and nobody else knows it: tables, units of work, and functions that return what ``model`` defines."""

from dualcert.store.database import Store, Transaction, database_file

__all__ = ["Store", "Transaction", "database_file"]
