"""Reading what people write into the fields of a search: each value checked, each error at its field's name."""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

from shared.domain.money import Money, MoneyError, parse_minor

#: Of each field; whoever repeats one more often isn't using our form.
MOST_VALUES = 30
#: Characters of anything that is written into a field.
LONGEST = 200

Word = TypeVar("Word", bound=str)


class Reading:
    """The fields of one search. `said` keeps people's own words, so that the page can give them back."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.errors: dict[str, str] = {}
        said: dict[str, list[str]] = {}
        for name, value in pairs:
            values = said.setdefault(name, [])
            if value.strip() and len(values) < MOST_VALUES:
                values.append(value.strip())
        self.said: Mapping[str, tuple[str, ...]] = {name: tuple(values) for name, values in said.items() if values}

    def text(self, name: str, longest: int = LONGEST) -> str | None:
        """Return a field's text, None if it is empty."""
        value = next(iter(self.said.get(name, ())), None)
        if value is None:
            return None
        if len(value) > longest:
            self.errors[name] = f"is too long: it may have {longest} characters"
            return None
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in value):
            self.errors[name] = "has signs in it that nobody can read"
            return None
        return value

    def one_of(self, name: str, words: Iterable[Word]) -> Word | None:
        """Return the one word of a list that a field names."""
        value = self.text(name)
        if value is None:
            return None
        meant = next((word for word in words if word == value), None)
        if meant is None:
            self.errors[name] = _strange(value)
        return meant

    def several(self, name: str, words: Iterable[Word]) -> tuple[Word, ...]:
        """Return the words of a list that a field names, each once, in the list's order."""
        values = set(self.said.get(name, ()))
        known = list(words)
        strange = sorted(values - set(known))
        if strange:
            self.errors[name] = _strange(strange[0])
        return tuple(word for word in known if word in values)

    def number(self, name: str, largest: int) -> int | None:
        """Return a whole number from 0 to `largest`."""
        value = self.text(name)
        if value is None:
            return None
        is_number = value.isascii() and value.isdigit() and len(value) <= len(str(largest))
        if not is_number or int(value) > largest:
            self.errors[name] = f"is no whole number from 0 to {largest:,}"
            return None
        return int(value)

    def amount(self, name: str, currency: str | None) -> Money | None:
        """Return an amount written as a decimal; it needs a coverage, whose currency it is in."""
        value = self.text(name)
        if value is None:
            return None
        if currency is None:
            self.errors[name] = "needs a coverage beside it: an amount is in that one's currency"
            return None
        try:
            return Money(parse_minor(value, currency), currency)
        except MoneyError as error:
            self.errors[name] = str(error)
            return None

    def yes(self, name: str) -> bool:
        """Return whether a box is ticked."""
        return self.one_of(name, ("yes",)) is not None


def _strange(value: str) -> str:
    return f"is none of those there are: “{value[:50]}”"
