"""``dualcert.toml``: finding, reading and checking it.

Reading order: places (where it is), settings (what comes out), schema (what may stand in the file), references (what
its tables say about one another), loader (from a file to settings), binding (a plugin's part against its own options
class), template (the file that ``init`` writes).
"""

from dualcert.config.settings import Settings

__all__ = ["Settings"]
