"""Watching: what CAs say of certificates that were issued, and what follows from it.

Reading order: places (what a certificate is watched by), asking (CRLs and OCSP responders), rounds (what came of that),
warnings (renewal information as a forerunner), suspicion (what is written down of a certificate), turning (promotions
that nobody ordered, and the brake), job (when all that happens), keys (looking at all of them, when a person wants it),
telling.
"""
