"""A terminal in an empty folder, and one whose environment names the servers of a world."""

from pathlib import Path

import pytest

from cli import doctor
from shared.settings import Settings
from tests.cli.terminal import Terminal, variables_of
from tests.world import World


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Terminal:
    """Nothing is set, and nothing runs here."""
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch)


@pytest.fixture
def terminal(bare: Terminal, world: World, database_url: str, redis_url: str) -> Terminal:
    """Everything is set to the world's servers."""
    bare.set(**variables_of(world, database_url, redis_url))
    bare.monkeypatch.setattr(doctor, "LOOK_AGAIN_AFTER_S", 0.05)
    return bare
