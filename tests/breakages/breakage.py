"""What a breakage is: a guard that is removed, the invariants it violates then, and the tests that must go red."""

from dataclasses import dataclass

from tests.breakages.seams import Seam


@dataclass(frozen=True)
class Breakage:
    """A guard that is removed. Each test in `caught_by` (a path from `tests/` on) must go red.

    Of a parametrised test one red case is enough, unless `is_every_case`.
    """

    name: str
    broken: str
    invariants: tuple[str, ...]
    caught_by: tuple[str, ...]
    seams: tuple[Seam, ...]
    is_every_case: bool = False
