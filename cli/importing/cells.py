"""Types of cells: what a cell may hold and what it becomes. The models of rows are made of them.

A reason is the end of a sentence that starts with the value: "'-5' is negative; credit is not a fee". Validators
raise it as a ValueError; where pydantic itself finds the error, a `Reason` in the type replaces pydantic's words.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any
from unicodedata import category, normalize

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, StringConstraints, ValidationInfo
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from cli.importing.source import UNREADABLE
from shared.domain.calendar import Period
from shared.domain.money import MAX_CHARGE_MINOR, MoneyError, exponent, format_minor, parse_minor
from shared.policy import Policy

#: Twelve digits, a point and room for the zeros that some exports write behind it.
MAX_AMOUNT_CHARACTERS = 24
#: Three decimals: where a row's currency isn't known, only what is wrong in every currency is called wrong.
LOOSEST_CURRENCY = "BHD"
MAX_IDENTIFIER = 200  # characters; well below what a PostgreSQL index entry holds
MAX_DESCRIPTION = 500  # characters; two lines of an invoice
MAX_NAME = 300
MAX_ADDRESS = 1_000
MAX_TAX_ID = 50

#: A cell that starts with one of these is a formula to a spreadsheet (OWASP, CSV injection); wide ones included.
FORMULA_SIGNS = frozenset("=+-@\t\r＝＋－＠")

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class RowContext:
    """What validators need to know beside the row. `period` is the month of all rows, if the command names one."""

    policy: Policy
    period: Period | None = None


@dataclass(frozen=True)
class Reason:
    """In an annotated type: the reason for whatever pydantic rejects in the part of the type before it."""

    text: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="reason", custom_error_message=self.text
        )


def reason_of(error: ErrorDetails) -> str:
    """The reason of one error of a ValidationError, without pydantic's own words."""
    if error["input"] == "":
        return "is empty; every row needs a value here"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "string_too_long":
        return f"is longer than {error['ctx']['max_length']:,} characters"
    if error["type"] == "reason":
        return error["msg"]  # ours
    return "can't be read; export the file as UTF-8"


def one_of(words: Collection[str], what: str) -> BeforeValidator:
    """Only these words."""
    return BeforeValidator(lambda text, info: _known_word(text, info, words, what))


def shown(value: str, most: int = 60) -> str:
    """A value as it may stand on a terminal or in a text column: one line, no control characters, not too long."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value[: most + 1])
    return clean if len(value) <= most else clean[:most] + "…"


def _known_word(text: str, info: ValidationInfo[RowContext], words: Collection[str], what: str) -> str:
    """Any other word can be translated with --value, and the reason says so."""
    if text not in words:
        raise ValueError(
            f"is not {what}: {', '.join(words)}. Say which one it means, for example "
            f'--value {info.field_name}:"{shown(text)}"={next(iter(words))}'
        )
    return text


def _known_coverage(text: str, info: ValidationInfo[RowContext]) -> str:
    return _known_word(text, info, info.context.policy.coverages, "a coverage of billing.toml")


def _identifier(text: str) -> str:
    """One spelling of each id (Unicode NFC), and none that a spreadsheet runs when it opens an export of ours."""
    if text[:1] in FORMULA_SIGNS:
        raise ValueError(f"is a formula to a spreadsheet, because it begins with {text[0]}; an id may not")
    return normalize("NFC", _visible(text))


def _visible(text: str) -> str:
    """Refuse characters that the eye can't tell apart."""
    if not text.isprintable():
        hidden = next(character for character in text if not character.isprintable())
        raise ValueError(f"holds the invisible character U+{ord(hidden):04X}, which an id may not")
    return _undamaged(text)


def _one_line(text: str) -> str:
    """Line breaks and tabs become spaces."""
    return _undamaged(text if text.isprintable() else " ".join(_without_controls(text).split()))


def _lines(text: str) -> str:
    return _undamaged(_without_controls(text).replace("\r\n", "\n").replace("\r", "\n"))


def _without_controls(text: str) -> str:
    for character in text:
        if category(character) in ("Cc", "Cs") and character not in "\t\r\n":
            raise ValueError(f"holds the control character U+{ord(character):04X}")
    return text


def _undamaged(text: str) -> str:
    if UNREADABLE in text:
        raise ValueError("holds the sign � for a letter that was lost when the file was made; export it as UTF-8")
    return text


def _iso_day(text: str) -> str:
    if not _DAY.fullmatch(text):
        raise ValueError("is not a date like 2026-10-31")
    return text


def _first_day(text: str) -> date:
    try:
        return Period.parse(text).first_day
    except ValueError:
        raise ValueError("is not a month like 2026-10") from None


def _currency(text: str) -> str:
    try:
        exponent(text.upper())
    except MoneyError:
        raise ValueError("is not a supported currency; write a code like USD or JPY") from None
    return text.upper()


def _currency_of_coverage(currency: str | None, info: ValidationInfo[RowContext]) -> str | None:
    """The coverage's currency; a currency in the file must be the same."""
    coverage = info.data.get("coverage")
    if coverage is None:
        return currency  # not billable, but enough to judge an amount by
    expected = info.context.policy.coverages[coverage].currency
    if currency not in (None, expected):
        raise ValueError(f"is not the currency of coverage {coverage}, which bills in {expected}")
    return expected


def _minor_units(text: str, info: ValidationInfo[RowContext]) -> int:
    """A decimal amount as minor units of the row's currency; at most what Stripe charges at once."""
    if len(text) > MAX_AMOUNT_CHARACTERS and text.isascii() and text.replace(".", "", 1).isdigit():
        raise ValueError(f"is a number of more than {MAX_AMOUNT_CHARACTERS} characters, larger than any amount")
    coverage = info.data.get("coverage")
    named = info.data.get("currency") or LOOSEST_CURRENCY
    currency = named if coverage is None else info.context.policy.coverages[coverage].currency
    minor = parse_minor(text, currency)
    if minor > MAX_CHARGE_MINOR:
        most = format_minor(MAX_CHARGE_MINOR, currency)
        raise ValueError(f"is larger than any amount Stripe charges; the most is {most}")
    return minor


#: An id of the company's own.
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=MAX_IDENTIFIER), AfterValidator(_identifier)]
Name = Annotated[str, StringConstraints(max_length=MAX_NAME), BeforeValidator(_one_line)]
Description = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_DESCRIPTION), BeforeValidator(_one_line)
]
Address = Annotated[str, StringConstraints(max_length=MAX_ADDRESS), BeforeValidator(_lines)]
TaxId = Annotated[str, StringConstraints(max_length=MAX_TAX_ID), BeforeValidator(_one_line)]
Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r'^[^\s@<>,;"]{1,64}@[^\s@<>,;"]+\.[^\s@<>,;".]+$'),
    Reason("is not an e-mail address like billing@example.com"),
    AfterValidator(_visible),
]
Language = Annotated[
    str,
    StringConstraints(pattern="^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$"),
    Reason("is not a language code like en or ja"),
]
Country = Annotated[
    str,
    StringConstraints(pattern="^[A-Za-z]{2}$", to_upper=True),
    Reason("is not a two-letter country code like JP (ISO 3166)"),
]
StripeCustomer = Annotated[
    str,
    StringConstraints(pattern="^cus_[A-Za-z0-9_]{1,200}$"),
    Reason("is not a Stripe customer id, which begins with cus_"),
]
Switch = Annotated[bool, Reason("is neither yes nor no")]
Day = Annotated[date, Reason("is a date that the calendar doesn't have"), BeforeValidator(_iso_day)]
#: A month, as its first day.
Month = Annotated[date, BeforeValidator(_first_day)]
Coverage = Annotated[str, AfterValidator(_known_coverage)]
#: Stands behind `coverage` in a model.
CoverageCurrency = Annotated[
    Annotated[str, AfterValidator(_currency)] | None,
    AfterValidator(_currency_of_coverage),
    Field(validate_default=True),
]
#: Stands behind `coverage` and `currency` in a model.
MinorUnits = Annotated[int, BeforeValidator(_minor_units)]
