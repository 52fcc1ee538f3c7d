"""The ``files`` deployer: PEM files in a folder, switched by a symbolic link, and a command that reloads a server.

Read ``deployer`` first, which tells the story; ``home`` is one pair's place in the folder, ``activation`` the reload
that is owed until it succeeds, ``command`` how it runs; ``durable``, ``lock`` and ``problems`` are tools.
"""

from dualcert.plugins.deploy.files.deployer import FilesDeployer
from dualcert.plugins.deploy.files.options import FilesOptions

__all__ = ["FilesDeployer", "FilesOptions"]
