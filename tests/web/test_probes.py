"""`/healthz` says that the process lives, `/readyz` that it can work; settings that can't work stop the start."""

import pytest
from sqlalchemy import Engine

from tests.web.conftest import MakeWeb, Web
from web.app import make_app


def test_a_living_process_is_healthy_and_ready(web: Web) -> None:
    assert web.client.get("/healthz").status_code == 200
    assert web.client.get("/readyz").status_code == 200


def test_without_a_database_the_process_lives_but_is_not_ready(make_web: MakeWeb, dead_engine: Engine) -> None:
    down = make_web(dead_engine)
    assert down.client.get("/healthz").status_code == 200
    assert down.client.get("/readyz").status_code == 503


def test_missing_settings_stop_the_start_with_the_name_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(SystemExit, match="DATABASE_URL"):
        make_app()
