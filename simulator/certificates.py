"""The certificates that outgoing HTTPS is checked with."""

import ssl
from functools import cache

import httpx


@cache
def trusted_certificates() -> ssl.SSLContext:
    """Return httpx's own context, made once a process: to read the certificates takes 28 ms of processor time."""
    return httpx.create_ssl_context(trust_env=False)
