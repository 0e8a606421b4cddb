"""Files of certificates and keys in PEM, with a sentence for a faulty file."""

import ssl
from pathlib import Path


def read_pem(path: str | Path) -> bytes:
    """Reads a file. Raises OSError with a sentence."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from None


def load_pair(context: ssl.SSLContext, certificate: str | Path, key: str | Path) -> None:
    """Sets the certificate chain and key of this side. Raises OSError with a sentence."""
    try:
        context.load_cert_chain(certificate, key, password="")  # Else OpenSSL prompts for one.
    except (ssl.SSLError, ValueError):
        message = f"{certificate} and {key} are no certificate with its key in PEM"
        raise OSError(message) from None


def load_authorities(context: ssl.SSLContext, authorities: str | Path) -> None:
    """Adds the CA certificates for the other side. Raises OSError with a sentence."""
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError:
        raise OSError(f"{authorities} has no certificates in PEM") from None
