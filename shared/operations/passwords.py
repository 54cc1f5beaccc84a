"""Passwords: argon2id with the library's own parameters (RFC 9106, low memory). Never stored, never logged."""

from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

#: NIST SP 800-63B requires 8 and recommends 15 for single-factor sign-in; no rules about kinds of characters.
SHORTEST = 12
#: An upper bound, so that no request makes us hash a huge text.
LONGEST = 256

_hasher = PasswordHasher()


class PasswordError(ValueError):
    """The password is not acceptable; the message says why."""


def hash_password(password: str, name: str) -> str:
    """Return the hash to store. PasswordError as of `check_password`."""
    check_password(password, name)
    return _hasher.hash(password)


def check_password(password: str, name: str) -> None:
    """PasswordError if it is too short, too long, too uniform, or the user's own name."""
    if len(password) < SHORTEST:
        raise PasswordError(f"a password has at least {SHORTEST} characters; a few words are fine")
    if len(password) > LONGEST:
        raise PasswordError(f"a password has at most {LONGEST} characters")
    if name.lower() in password.lower() and len(password) - len(name) < SHORTEST - 4:
        raise PasswordError("a password must not be the user's name with something added")
    if len(set(password)) < 5:
        raise PasswordError("a password has more than four different characters")


def is_password(password: str, kept: str | None) -> bool:
    """Whether a password matches a hash. Without a hash it takes as long, so it reveals no user names."""
    try:
        _hasher.verify(kept or _nobodys(), password[:LONGEST])
    except (VerificationError, InvalidHashError):
        return False
    return kept is not None


def wants_new_hash(kept: str) -> bool:
    """Whether the library's parameters have grown since this hash was made."""
    return _hasher.check_needs_rehash(kept)


@cache
def _nobodys() -> str:
    return _hasher.hash("nobody has this password")
