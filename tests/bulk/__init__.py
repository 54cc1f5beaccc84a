"""Bulk actions: their previews, and that each item is applied once."""

import pytest

pytest.register_assert_rewrite("tests.bulk.company")
