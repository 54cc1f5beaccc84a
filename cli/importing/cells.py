"""What one cell may hold. Each reader takes a stripped, non-empty text and returns a value or says what is wrong.

A reason is the end of a sentence that starts with the value: "'-5' is negative; credit is not a fee".
"""

import re
from collections.abc import Callable, Collection
from datetime import date
from typing import Any
from unicodedata import category

from cli.importing.source import UNREADABLE
from shared.domain.calendar import Period
from shared.domain.money import MoneyError, exponent, format_minor, parse_minor

#: Stripe takes at most twelve digits in any currency; it also keeps a million such fees below 64 bits in sum.
MAX_AMOUNT_MINOR = 999_999_999_999
#: Twelve digits, a point and room for the zeros that some exports write behind it.
MAX_AMOUNT_CHARACTERS = 24
#: Three decimals: where a row's currency isn't known, only what is wrong in every currency is called wrong.
LOOSEST_CURRENCY = "BHD"
MAX_IDENTIFIER = 200  # characters; well below what a PostgreSQL index entry holds

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_EMAIL = re.compile(r"[^\s@<>,;\"]{1,64}@[^\s@<>,;\"]+\.[^\s@<>,;\".]+")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_STRIPE_CUSTOMER = re.compile(r"cus_[A-Za-z0-9_]{1,200}")
_SWITCH = {**dict.fromkeys(("yes", "true", "1", "y"), True), **dict.fromkeys(("no", "false", "0", "n"), False)}

ReadCell = Callable[[str], Any]


class BadCellError(ValueError):
    """A cell can't be used; the message is the reason, without the value."""


def read_identifier(text: str) -> str:
    """An id of the company's own: one line, and no character that the eye can't tell apart."""
    if not text.isprintable():
        hidden = next(character for character in text if not character.isprintable())
        raise BadCellError(f"holds the invisible character U+{ord(hidden):04X}, which an id may not")
    return _bounded(text, MAX_IDENTIFIER)


def read_line(most: int) -> ReadCell:
    """Text on one line: line breaks and tabs become spaces."""

    def read(text: str) -> str:
        return _bounded(text if text.isprintable() else " ".join(_without_controls(text).split()), most)

    return read


def read_block(most: int) -> ReadCell:
    """Text that may have several lines, like an address."""

    def read(text: str) -> str:
        return _bounded(_without_controls(text).replace("\r\n", "\n").replace("\r", "\n"), most)

    return read


def read_email(text: str) -> str:
    if len(text) > 254 or not _EMAIL.fullmatch(text):
        raise BadCellError("is not an e-mail address like billing@example.com")
    return read_identifier(text)


def read_language(text: str) -> str:
    if not _LANGUAGE.fullmatch(text):
        raise BadCellError("is not a language code like en or ja")
    return text


def read_country(text: str) -> str:
    if len(text) != 2 or not text.isascii() or not text.isalpha():
        raise BadCellError("is not a two-letter country code like JP (ISO 3166)")
    return text.upper()


def read_stripe_customer(text: str) -> str:
    if not _STRIPE_CUSTOMER.fullmatch(text):
        raise BadCellError("is not a Stripe customer id, which begins with cus_")
    return text


def read_currency(text: str) -> str:
    try:
        exponent(text.upper())
    except MoneyError:
        raise BadCellError("is not a currency that we bill in; write a code like USD or JPY") from None
    return text.upper()


def read_day(text: str) -> date:
    if not _DAY.fullmatch(text) or not text.isascii():
        raise BadCellError("is not a date like 2026-10-31")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadCellError("is a date that the calendar doesn't have") from None


def read_period(text: str) -> date:
    """A month, as its first day."""
    try:
        return Period.parse(text).first_day
    except ValueError:
        raise BadCellError("is not a month like 2026-10") from None


def read_switch(text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise BadCellError("is neither yes nor no") from None


def read_amount(text: str, currency: str | None) -> int:
    """A decimal amount as minor units of `currency`; see MAX_AMOUNT_MINOR."""
    unit = currency or LOOSEST_CURRENCY
    if len(text) > MAX_AMOUNT_CHARACTERS and text.isascii() and text.replace(".", "", 1).isdigit():
        raise BadCellError(f"is a number of more than {MAX_AMOUNT_CHARACTERS} characters, larger than any amount")
    try:
        minor = parse_minor(text, unit)
    except MoneyError as error:
        raise BadCellError(str(error)) from None
    if minor > MAX_AMOUNT_MINOR:
        most = format_minor(MAX_AMOUNT_MINOR, unit)
        raise BadCellError(f"is larger than any amount we can collect; the most is {most}")
    return minor


def one_of(column: str, words: Collection[str], what: str) -> ReadCell:
    """One of a few words; anything else can be translated with --value, and the reason says so."""
    known = frozenset(words)
    listed = ", ".join(words)
    example = next(iter(words))

    def read(text: str) -> str:
        if text not in known:
            raise BadCellError(
                f"is not {what}: {listed}. Say which one it means, for example "
                f'--value {column}:"{shown(text)}"={example}'
            )
        return text

    return read


def shown(value: str, most: int = 60) -> str:
    """A value as it may stand on a terminal or in a text column: one line, no control characters, not too long."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value[: most + 1])
    return clean if len(value) <= most else clean[:most] + "…"


def _without_controls(text: str) -> str:
    for character in text:
        if category(character) in ("Cc", "Cs") and character not in "\t\r\n":
            raise BadCellError(f"holds the control character U+{ord(character):04X}")
    return text


def _bounded(text: str, most: int) -> str:
    if UNREADABLE in text:
        raise BadCellError("holds the sign � for a letter that was lost when the file was made; export it as UTF-8")
    if len(text) > most:
        raise BadCellError(f"is longer than {most:,} characters")
    return text
