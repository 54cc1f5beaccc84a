"""Data folders for embedded servers, removed with their content."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import embedded
from tests.embedded.killable import eventually


def _temporary_folder() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="duecourse-embedded-"))
    root.chmod(0o755)  # pytest's own tmp_path is mode 700: as root our servers couldn't enter
    try:
        yield root / ".duecourse"
    finally:
        eventually(lambda: _is_erased(root / ".duecourse"), "the lock's release")
        shutil.rmtree(root)


def _is_erased(folder: Path) -> bool:
    try:
        embedded.erase(folder)
    except embedded.EmbeddedError:
        return False
    return True


@pytest.fixture
def folder() -> Iterator[Path]:
    """A path for a data folder that the servers' user can reach; it doesn't exist yet."""
    yield from _temporary_folder()


@pytest.fixture(scope="module")
def lasting_folder() -> Iterator[Path]:
    """One data folder for all tests of a module: each start works on what the previous end left."""
    yield from _temporary_folder()
