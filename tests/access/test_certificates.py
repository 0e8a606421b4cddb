"""TLS and mTLS on both doors, with certificates that change while calls go on."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
import trustme

from imagecall.access.certificates import Certificates
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.client import AsyncImageClient
from imagecall.doors.grpc.server import GrpcServer
from imagecall.doors.http.server import HttpServer
from imagecall.errors import GenerationError
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import credentials_of
from imagecall.v1.image_request_pb2 import ImageRequest
from tests.access.test_client_tls import Held

FOX = ImageRequest(prompt="a fox")


class Files:
    """Certificate, key and authority in files, of which the first two can be made anew."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.ca = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.renew()

    def renew(self) -> None:
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    def client(self) -> tuple[bytes, bytes]:
        issued = self.authority.issue_cert("client@example.org")
        return issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()


@asynccontextmanager
async def doors(
    certificates: Certificates, backend: EmbeddedBackend | None = None
) -> AsyncIterator[tuple[str, str]]:
    backend = backend or EmbeddedBackend()
    grpc_server = GrpcServer("127.0.0.1:0", backend, certificates=certificates)
    http_server = HttpServer("127.0.0.1:0", backend, certificates=certificates)
    try:
        yield await grpc_server.start(), await http_server.start()
    finally:
        await asyncio.gather(grpc_server.stop(0), http_server.stop(0))


def served(address: str) -> str:
    """The certificate that a new connection gets."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=60)


async def test_both_doors_speak_tls(tmp_path: Path) -> None:
    files = Files(tmp_path)
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    context = ssl.create_default_context(cafile=files.ca)
    async with doors(Certificates(files.cert, files.key)) as (address, page):
        async with AsyncImageClient(address, credentials=credentials) as client:
            assert (await client.generate_image(FOX)).calls
        async with AsyncImageClient(address) as client:
            with pytest.raises(GenerationError):
                await client.generate_image(FOX, timeout=2)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"https://{page}/", ssl=context) as got:
                assert got.status == 200
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://{page}/")


async def test_without_a_certificate_of_the_authority_a_client_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path)
    key, cert = files.client()
    stranger = trustme.CA().issue_cert("client@example.org")
    root = files.ca.read_bytes()
    async with doors(Certificates(files.cert, files.key, files.ca)) as (address, page):
        known = grpc.ssl_channel_credentials(root, key, cert)
        async with AsyncImageClient(address, credentials=known) as client:
            assert (await client.generate_image(FOX)).calls
        other = stranger.private_key_pem.bytes(), stranger.cert_chain_pems[0].bytes()
        for pair in ((None, None), other):
            unknown = grpc.ssl_channel_credentials(root, *pair)
            async with AsyncImageClient(address, credentials=unknown) as client:
                with pytest.raises(GenerationError):
                    await client.generate_image(FOX, timeout=2)
        pair_file = tmp_path / "client.pem"
        pair_file.write_bytes(key + cert)
        for loaded in (True, False):
            context = ssl.create_default_context(cafile=files.ca)
            if loaded:
                context.load_cert_chain(pair_file)
            async with aiohttp.ClientSession() as session:
                try:
                    async with session.get(f"https://{page}/", ssl=context) as got:
                        assert (got.status, loaded) == (200, True)
                except aiohttp.ClientError:
                    assert not loaded


async def test_a_new_certificate_is_served_and_a_call_in_progress_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagecall.access.watched_files._SECONDS", 0)
    files, held = Files(tmp_path), Held(FOX.prompt)
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    async with doors(Certificates(files.cert, files.key), held) as (address, page):
        before = [await asyncio.to_thread(served, each) for each in (address, page)]
        async with AsyncImageClient(address, credentials=credentials) as client:
            drawing = asyncio.create_task(client.generate_image(FOX))
            await held.reached.wait()
            files.cert.write_bytes(b"half written")
            assert [await asyncio.to_thread(served, each) for each in (address, page)] == before
            files.renew()
            after = [await asyncio.to_thread(served, each) for each in (address, page)]
            assert after[0] == after[1] != before[0]
            assert not drawing.done()
            held.released.set()
            assert (await drawing).calls


def test_addresses_say_whether_there_is_tls() -> None:
    assert credentials_of(ServerAddress("a:1")) is None
    assert credentials_of(ServerAddress("a:1", tls=True)) is not None
