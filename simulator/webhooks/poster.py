"""Posts webhooks over kept-alive connections."""

from collections.abc import Mapping

import httpx

from simulator.certificates import trusted_certificates

#: Idle connections are dropped sooner than uvicorn (5 s) drops its end of them.
KEEP_ALIVE_S = 4.0


class Poster:
    """Posts to any number of endpoints. Used from one event loop."""

    def __init__(self, timeout_s: float) -> None:
        limits = httpx.Limits(max_keepalive_connections=32, keepalive_expiry=KEEP_ALIVE_S)
        self._client = httpx.AsyncClient(
            timeout=timeout_s, limits=limits, verify=trusted_certificates(), trust_env=False
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the status of the answer. Raises OSError or TimeoutError if there is none."""
        try:
            answer = await self._client.post(url, content=body, headers=dict(headers))
        except httpx.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        except httpx.TransportError as error:
            raise ConnectionError(str(error)) from error
        return answer.status_code

    async def close(self) -> None:
        await self._client.aclose()
