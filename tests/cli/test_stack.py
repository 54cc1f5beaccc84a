"""Invalid settings are refused before the stack starts anything."""

from pathlib import Path

import pytest

from local.stack import StackError, prepared_stack


def test_a_database_url_with_a_driver_is_refused_before_anything_starts(tmp_path: Path) -> None:
    data = tmp_path / ".duecourse"
    with (
        pytest.raises(StackError, match=r"DATABASE_URL must look like .*, without \+psycopg"),
        prepared_stack(data, overrides={"DATABASE_URL": "postgresql+psycopg://user@host/name"}),
    ):
        pytest.fail("it was not refused")
    assert not data.exists()
