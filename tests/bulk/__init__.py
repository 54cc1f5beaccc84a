"""Bulk actions: what they would do, and that they do it once."""

import pytest

pytest.register_assert_rewrite("tests.bulk.company")
