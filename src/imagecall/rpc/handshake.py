"""Causes of connections that fail, as phrases about the server: "its certificate has expired".

The causes are read from the messages of gRPC's core, and of OpenSSL. Where a server only closes
the connection, the phrase names what it may require.
"""

import re
from typing import Final

import grpc

from imagecall.errors import GenerationError, ImagecallError
from imagecall.rpc.status import error_of, is_not_sent

_ALERTS: Final = {
    "alert.certificate.required": "it requires a client certificate",
    "alert.unknown.ca": "it does not trust the CA of the client certificate",
    "alert.certificate.expired": "it refuses the client certificate as expired",
    "alert.certificate.revoked": "it refuses the client certificate as revoked",
    "alert.(bad|unsupported).certificate|alert.certificate.unknown": (
        "it refuses the client certificate"
    ),
}
"""Alerts of TLS (RFC 8446, section 6.2) with which a server refuses a client's certificate."""

_CAUSES: Final = {
    "hostname (verification|mismatch)|ip address mismatch": "its certificate is for another name",
    "certificate has expired": "its certificate has expired",
    "certificate is not yet valid": "its certificate is not valid yet",
    "issuer certificate|self.signed": "its certificate is of no CA that is trusted here",
    "certificate.verify.failed": "its certificate is not valid",
    "wrong.version.number": "it does not speak TLS",
    **_ALERTS,
    r"alert.handshake.failure|\balert\b|_alert_": "it refuses the TLS handshake",
    "connection refused": "the connection was refused",
    "DNS resolution failed|errors resolving|name or service not known": "its name is not resolved",
}

_CLOSED: Final = "socket closed|connection reset|unwrap failed|broken pipe|end of file|EOF"
_MAY_REQUIRE: Final = {
    True: "it ended the TLS handshake, and may require a client certificate that it trusts",
    False: "it closed the connection at once, and may require TLS",
}


def cause_of(message: str, *, tls: bool) -> str:
    """Returns a phrase for the cause in a message about a failed connection; "" if unknown."""
    for pattern, phrase in (*_CAUSES.items(), (_CLOSED, _MAY_REQUIRE[tls])):
        if re.search(pattern, message, re.IGNORECASE):
            return phrase
    return ""


def is_refused_certificate(message: str) -> bool:
    """True for the message of an alert by which a server refuses a client's certificate."""
    return any(re.search(alert, message, re.IGNORECASE) for alert in _ALERTS)


def call_error(error: grpc.RpcError, target: str, *, tls: bool) -> ImagecallError:
    """Returns the error of a call, with the cause if there is no connection to the target."""
    known = error_of(error)
    if known.code != "UNAVAILABLE" or known.reason or not is_not_sent(str(known)):
        return known
    cause = cause_of(str(known), tls=tls) or str(known)
    message = f"there is no connection to {target}: {cause}"
    return GenerationError("", message, code=known.code)
