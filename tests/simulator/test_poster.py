"""The webhook client against correct and broken servers."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from simulator.webhooks.poster import Poster

Answerer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
    return head + await reader.readexactly(int(length.split(b":")[1]))


def post_to(answerer: Answerer, times: int = 1, timeout_s: float = 1.0, pause_s: float = 0.0) -> list[int]:
    """Post `times` to a server that handles each connection with `answerer`."""

    async def story() -> list[int]:
        server = await asyncio.start_server(answerer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        poster = Poster(timeout_s)
        statuses = []
        for _ in range(times):
            statuses.append(await poster.post(f"http://127.0.0.1:{port}/hook?a=b", b"{}", {"X-Test": "1"}))
            await asyncio.sleep(pause_s)
        await poster.close()
        server.close()
        return statuses

    return asyncio.run(story())


def test_a_connection_is_reused() -> None:
    connections = 0
    requests: list[bytes] = []

    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(3):
            requests.append(await _read_request(reader))
            writer.write(OK)
        writer.close()

    assert post_to(answerer, times=3) == [200, 200, 200]
    assert connections == 1
    assert requests[0].startswith(b"POST /hook?a=b HTTP/1.1\r\nHost: 127.0.0.1")
    assert requests[0].endswith(b"\r\n\r\n{}")


def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(OK)
        writer.close()

    assert post_to(answerer, times=3) == [200, 200, 200]
    assert post_to(answerer, times=2, pause_s=0.05) == [200, 200]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", 500),
        (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", 204),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
    ],
)
def test_the_status_is_read_from_every_form_of_answer(answer: bytes, status: int) -> None:
    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(answer)
        await asyncio.sleep(0.05)
        writer.close()

    assert post_to(answerer) == [status]


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 200 OK\r\nContent-Len"])
def test_no_answer_is_an_error(answer: bytes) -> None:
    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(answer)
        writer.close()

    with pytest.raises(OSError):  # noqa: PT011 - which one depends on how far it came
        post_to(answerer)


def test_a_silent_receiver_times_out() -> None:
    async def answerer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.close()

    with pytest.raises(TimeoutError):
        post_to(answerer, timeout_s=0.1)
