"""What a breakage is: a sentence, the invariants that it violates, the edit, and the tests that must notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One edit: `old` occurs exactly once in `file` (a path from the checkout's root)."""

    file: str
    old: str
    new: str

    def applied_to(self, text: str) -> str:
        """Return the file's text with the edit; ValueError unless `old` is in it exactly once."""
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.file} has {found} places that read {self.old!r}, not one")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Breakage:
    """A guard taken away. `caught_by` names tests from `tests/` on, and each of them must go red.

    `patches` edit the code; `sql` becomes one more migration, the last, for what the database guards.
    """

    name: str
    broken: str
    invariants: tuple[str, ...]
    caught_by: tuple[str, ...]
    patches: tuple[Patch, ...] = ()
    sql: tuple[str, ...] = ()
