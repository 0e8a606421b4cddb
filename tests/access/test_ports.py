"""Ports that several processes share."""

import errno
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from imagecall.access.ports import reserved


def place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_what_is_reserved_is_free_afterwards() -> None:
    with ExitStack() as stack:
        address = reserved("localhost:0", stack)
        host, port = place(address)
        assert host == "localhost"
        assert port
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


async def test_without_IPv6_any_address_is_one_of_IPv4(monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.socket

    def only_ipv4(family: int = socket.AF_INET, *rest: Any, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return made(family, *rest, **named)

    with ExitStack() as stack:
        monkeypatch.setattr("socket.socket", only_ipv4)
        address = reserved("[::]:0", stack)
        monkeypatch.undo()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("0.0.0.0", place(address)[1]))


@pytest.mark.parametrize(
    "address",
    ["nowhere.invalid:0", "[::ffff:zz]:0", "a..b:0", "127.0.0.1:70000", "x"],
)
def test_an_address_that_cannot_be_reserved_is_an_error_with_a_sentence(address: str) -> None:
    with ExitStack() as stack, pytest.raises(OSError, match=r"cannot listen on .*: it is in use"):
        reserved(address, stack)
