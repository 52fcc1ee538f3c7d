"""For the tests of those who build on dualcert, and for its own. Nothing is imported here.

* ``clock``: a clock that is moved by hand.
* ``dns``, ``deploy``, ``keys``: one conformance suite for each kind of plugin, as pytest classes to derive from, with
  ``plugin = TheClass`` (``dualcert[testing]`` brings pytest). A plugin that passes keeps what its port promises.
* ``fakes_dns``, ``fakes_deploy``, ``fakes_keys``: plugins in memory, kept honest by the same suites.
* ``placements``: real certificates and keys to deploy; ``apart`` and ``steps``: deployments in processes of their own,
  killed or halted before any of their steps.
"""
