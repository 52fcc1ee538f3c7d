"""The client for ACME CAs (RFC 8555); the only place that knows acme and josepy.

``AcmeCa`` is the port ``CertificateAuthority`` on the wire. Read on in ``ca`` (the calls), ``transport`` (one
request and its nonce), ``connection`` (its deadline), ``directory``, ``signing`` (keys and JWS), ``answers`` (what came
back), and ``problems`` with ``remedies`` and ``unreachable`` (what went wrong, and what to do about it). Importing this
package and building an ``AcmeCa`` stay cheap: acme, josepy and cryptography are imported by the first call that talks
to the CA.
"""

from dualcert.acmeclient.ca import AcmeCa
from dualcert.acmeclient.settings import AcmeCaSettings, check_binding_key

__all__ = ["AcmeCa", "AcmeCaSettings", "check_binding_key"]
