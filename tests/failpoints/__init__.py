"""Every failpoint is crashed at: stories.py says in what, plan.py in which file, `python -m` prints the table."""

import pytest

pytest.register_assert_rewrite("tests.failpoints.company", "tests.failpoints.story", "tests.failpoints.stories")
