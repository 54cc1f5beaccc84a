"""The registry of billing events: what code and SQL write or look for is in it, and every entry is used."""

import re
from pathlib import Path

from shared.domain.event_types import EventType

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cli", "local", "scheduler", "shared", "web", "workers")
#: A stored value in SQL: written (`SELECT :now, 'backoff_ended'`) or compared (`type = 'x'`, `type IN ('x', 'y')`).
WRITTEN = re.compile(r"INSERT INTO billing_events \([^)]*\)\s*SELECT [^,]+, '(\w+)'")
COMPARED = re.compile(r"(?<![_\w])type (?:=|IN) \(?('[\w', ]+')")


def sources() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text("utf-8")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def stored_values(text: str) -> set[str]:
    """Values of `billing_events.type` that stand in a file's SQL."""
    compared = (value for match in COMPARED.findall(text) for value in re.findall(r"'(\w+)'", match))
    about_events = compared if "billing_events" in text else ()
    return {*WRITTEN.findall(text), *about_events}


def test_sql_names_only_registered_event_types() -> None:
    found = {value for text in sources().values() for value in stored_values(text)}
    assert {"invoice_issued", "invoice_not_issued", "backoff_ended", "payment_settings_changed"} <= found
    assert found - set(EventType) == set()


def test_every_registered_event_type_is_used() -> None:
    texts = {path: text for path, text in sources().items() if path != "shared/domain/event_types.py"}
    in_sql = {value for text in texts.values() for value in stored_values(text)}
    imported = {f"{kind}_imported" for kind in ("accounts", "services", "fees")}  # EventType(f"{kind}_imported")
    reserved = {EventType.PAYMENT_CREATED}
    unused = [
        one
        for one in EventType
        if one not in in_sql | imported | reserved
        and not any(f"EventType.{one.name}" in text for text in texts.values())
    ]
    assert unused == []


def test_stored_values_are_unique_and_plain() -> None:
    assert len({one.value for one in EventType}) == len(EventType)
    assert all(re.fullmatch(r"[a-z_]+", one) for one in EventType)
