"""A pytest plugin that removes the guard named by BREAK before anything of ours is collected.

BREAK=payment-not-locked python -m pytest -p tests.breakages.plugin tests/payments
"""

import os


def pytest_configure() -> None:
    remove_guard()


def remove_guard() -> None:
    """Apply the seams of the breakage that the environment names. LookupError if there is none of that name."""
    name = os.environ.get("BREAK")
    if name:
        from tests.breakages.catalogue import find

        for seam in find(name).seams:
            seam.apply()
