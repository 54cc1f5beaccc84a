"""`/healthz`: the process runs; `/readyz`: it reaches the database; invalid settings stop the start."""

import pytest
from sqlalchemy import Engine

from tests.web.conftest import MakeWeb, Web
from web.app import make_app


def test_running_process_is_healthy_and_ready(web: Web) -> None:
    assert web.client.get("/healthz").status_code == 200
    assert web.client.get("/readyz").status_code == 200


def test_process_without_database_is_healthy_but_not_ready(make_web: MakeWeb, dead_engine: Engine) -> None:
    down = make_web(dead_engine)
    assert down.client.get("/healthz").status_code == 200
    assert down.client.get("/readyz").status_code == 503


def test_missing_setting_stops_the_start_and_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(SystemExit, match="DATABASE_URL"):
        make_app()
