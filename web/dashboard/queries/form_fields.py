"""Read and check the fields of a filter form; errors are kept by field name."""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

from shared.domain.money import Money, MoneyError, parse_minor

#: Values per field; our forms never send more.
MOST_VALUES = 30
#: Characters of a value.
LONGEST = 200

Word = TypeVar("Word", bound=str)


class FormFields:
    """The fields of one form. `raw` keeps the values as entered, so that the page can show them again."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.errors: dict[str, str] = {}
        raw: dict[str, list[str]] = {}
        for name, value in pairs:
            values = raw.setdefault(name, [])
            if value.strip() and len(values) < MOST_VALUES:
                values.append(value.strip())
        self.raw: Mapping[str, tuple[str, ...]] = {name: tuple(values) for name, values in raw.items() if values}

    def text(self, name: str, longest: int = LONGEST) -> str | None:
        """Return a field's text, None if it is empty."""
        value = next(iter(self.raw.get(name, ())), None)
        if value is None:
            return None
        if len(value) > longest:
            self.errors[name] = f"is too long: at most {longest} characters"
            return None
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in value):
            self.errors[name] = "contains invalid characters"
            return None
        return value

    def one_of(self, name: str, words: Iterable[Word]) -> Word | None:
        """Return the field's value if it is one of `words`."""
        value = self.text(name)
        if value is None:
            return None
        match = next((word for word in words if word == value), None)
        if match is None:
            self.errors[name] = _unknown_value(value)
        return match

    def several(self, name: str, words: Iterable[Word]) -> tuple[Word, ...]:
        """Return the field's values that are among `words`, each once, in the order of `words`."""
        values = set(self.raw.get(name, ()))
        known = list(words)
        unknown = sorted(values - set(known))
        if unknown:
            self.errors[name] = _unknown_value(unknown[0])
        return tuple(word for word in known if word in values)

    def number(self, name: str, largest: int) -> int | None:
        """Return a whole number from 0 to `largest`."""
        value = self.text(name)
        if value is None:
            return None
        is_number = value.isascii() and value.isdigit() and len(value) <= len(str(largest))
        if not is_number or int(value) > largest:
            self.errors[name] = f"must be a whole number from 0 to {largest:,}"
            return None
        return int(value)

    def amount(self, name: str, currency: str | None) -> Money | None:
        """Return a decimal amount in the coverage's currency."""
        value = self.text(name)
        if value is None:
            return None
        if currency is None:
            self.errors[name] = "needs a coverage: it determines the currency"
            return None
        try:
            return Money(parse_minor(value, currency), currency)
        except MoneyError as error:
            self.errors[name] = str(error)
            return None

    def yes(self, name: str) -> bool:
        """Return whether a checkbox is checked."""
        return self.one_of(name, ("yes",)) is not None


def _unknown_value(value: str) -> str:
    return f"has an unknown value: “{value[:50]}”"
