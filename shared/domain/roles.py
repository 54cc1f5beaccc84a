"""What a role may do. A role may all that the roles before it may."""

from enum import StrEnum


class Role(StrEnum):
    """In the order of what they may."""

    VIEWER = "viewer"  # sees everything but e-mail addresses; changes nothing
    OPERATOR = "operator"  # charges, holds, re-runs, requeues, resolves
    ADMIN = "admin"  # and decides who else may

    def may(self, needed: "Role") -> bool:
        """Whether this role includes `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)
