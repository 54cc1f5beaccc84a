"""PostgreSQL and Valkey for machines where DATABASE_URL or REDIS_URL isn't set.

The programs come from the wheels of the extra `embedded` (or PATH, or Debian's folder); their Python code is never
run. A small guard process owns the servers and stops them when its owner is gone, in whatever way.
"""

from local.embedded.launch import erase, resolve, running_urls, servers
from local.embedded.plan import EmbeddedError, Urls

__all__ = ["EmbeddedError", "Urls", "erase", "resolve", "running_urls", "servers"]
