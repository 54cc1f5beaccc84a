"""The web process kills itself with SIGKILL while it stores an event; Stripe sends again, and no event is lost."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from shared.failpoints import Failpoint
from tests.failpoints.company import settings_of_web
from tests.failpoints.plan import WEB, points_of
from tests.failpoints.processes import KILLED, environment_of, restarted_web
from tests.failpoints.stories import story_of
from tests.failpoints.story import live

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("point", points_of(WEB))
def test_killed_web_process_loses_no_event(
    engine: Engine, database_url: str, redis_url: str, tmp_path: Path, point: Failpoint
) -> None:
    log = tmp_path / "web.log"
    secrets = {name: json.dumps(value) for name, value in settings_of_web().items()}
    environment = environment_of(DATABASE_URL=database_url, REDIS_URL=redis_url, **secrets)
    with restarted_web(environment, {"DUECOURSE_CRASH_AT": point}, log) as (url, ends):
        story = live(story_of(point), engine, database_url, point, arrival=0, web_url=url)
        assert ends == [KILLED]
    assert story.lives == 1, "the workers lived on"
    assert f"failpoint {point}" in log.read_text()
    assert "failpoints.armed" in log.read_text(), "it says so loudly"
