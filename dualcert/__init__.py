"""Two certificates for every set of names, from two CAs, under two keys. One serves; the other is ready.

A reading order, from the ground up; each part knows only those before it:

``errors``, ``clock``   what can go wrong, with its remedy; the only now() and sleep()
``model``               the nouns: names, certificates, pairs, orders, work, events
``policy``              pure decisions: facts and an instant in, a decision with its reason out
``ports``               what is asked of CAs, DNS providers, targets and key protectors; their prose is the contract
``config``              ``dualcert.toml``, read and checked
``acmeclient``          one CA over ACME (RFC 8555)
``dcv``                 where a challenge record goes, and whether every server shows it
``store``               SQL: tables, units of work, the work queue, promotion as one predicate
``plugins``             DNS providers, deployers, key protectors, a module each
``lifecycle``           the story: inventory, ordering, validation, storing, deployment, promotion, revocation;
                        ``engine`` takes one step of one row of work, ``driver`` runs it for a command
``bootstrap``           the one place where all of this is wired
``testing``             for plugin authors: conformance suites, fakes, a clock to move by hand
``lab``                 two CAs, DNS and a TLS server on loopback
``cli``                 one thin module per noun
"""
