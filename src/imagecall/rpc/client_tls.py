"""TLS of a client: the CAs that it trusts, its own certificate, and the expected name."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True)
class ClientTls:
    """TLS of a client.

    Attributes:
        ca: file of the CA certificates for that of the server, PEM. None: those of gRPC, or of the
            system for https://.
        cert: file of the client's certificate chain, PEM. None: the client has no certificate.
        key: file of the private key of that certificate, PEM.
        name: name that the server's certificate must have. None: the host of the address.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    name: str | None = None

    @property
    def files(self) -> list[Path]:
        """Paths of the files."""
        return [Path(path) for path in (self.ca, self.cert, self.key) if path]

    def context(self) -> "ssl.SSLContext":
        """Reads the files. Raises OSError with a sentence for a missing or faulty one."""
        import ssl  # Not for a command that calls no server: it takes a while to load.

        from imagecall.rpc.pem import load_authorities, load_pair, read_pem

        for path in self.files:
            read_pem(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca:
            load_authorities(context, self.ca)
        else:
            context.load_default_certs()
        context.set_alpn_protocols(["http/1.1"])
        if self.cert and self.key:
            load_pair(context, self.cert, self.key)
        elif self.cert or self.key:
            raise OSError("the certificate of a client and its key belong together")
        return context


WITHOUT_FILES: Final = ClientTls()
"""TLS of a client without files of its own."""
