"""Two workers on one run: the second finds it locked, does nothing, and doesn't wait."""

import pytest
from sqlalchemy import Engine

from shared.messaging.jobs import DAILY_RETRIES, MONTHLY_INVOICES
from shared.scheduling.runs import lock_workable_run
from tests.seed import add_run


@pytest.mark.parametrize(("job", "period"), [(MONTHLY_INVOICES, "2026-10"), (DAILY_RETRIES, "2026-11-04")])
def test_locked_run_is_skipped_by_a_second_worker(engine: Engine, job: str, period: str) -> None:
    with engine.begin() as connection:
        run_id = add_run(connection, period, job=job)
    with engine.connect() as first:
        assert lock_workable_run(first, run_id, job) is not None
        with engine.connect() as second:
            assert lock_workable_run(second, run_id, job) is None
        first.rollback()
        with engine.connect() as third:
            assert lock_workable_run(third, run_id, job) is not None
