"""Crash at every failpoint: stories.py has the stories, plan.py the files, `python -m` prints the table."""

import pytest

pytest.register_assert_rewrite("tests.failpoints.company", "tests.failpoints.story", "tests.failpoints.stories")
