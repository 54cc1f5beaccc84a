"""The permissions of roles. Each role includes those before it."""

from enum import StrEnum


class Role(StrEnum):
    """In order of their permissions."""

    VIEWER = "viewer"  # reads everything but e-mail addresses; changes nothing
    OPERATOR = "operator"  # charges, holds, reruns, requeues, resolves
    ADMIN = "admin"  # also manages users

    def may(self, needed: "Role") -> bool:
        """Whether this role includes `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)
