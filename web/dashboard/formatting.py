"""How things look on a page: money, instants, spans of time, counts and states, for all templates alike."""

from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal

from babel.numbers import format_currency, format_decimal

from shared.domain.money import exponent

LOCALE = "en"

#: What a state means for the colour of its badge: good, waiting, trouble, ended. Words carry it too, always.
TONES: dict[str, str] = {
    "paid": "good",
    "succeeded": "good",
    "finished": "good",
    "applied": "good",
    "good": "good",
    "done": "good",
    "due": "waiting",
    "retry_scheduled": "waiting",
    "awaiting_transfer": "waiting",
    "authorised": "waiting",
    "started": "waiting",
    "ready": "waiting",
    "running": "waiting",
    "received": "waiting",
    "waiting": "waiting",
    "awaiting_confirmation": "trouble",
    "needs_payment_method": "trouble",
    "needs_authentication": "trouble",
    "needs_support": "trouble",
    "declined": "trouble",
    "authentication_needed": "trouble",
    "unknown": "trouble",
    "trouble": "trouble",
    "refused": "trouble",
    "past_due": "trouble",
    "marked_for_suspension": "trouble",
    "uncollectible": "ended",
    "void": "ended",
    "carried_forward": "ended",
    "canceled": "ended",
    "not_sent": "ended",
    "ignored": "ended",
    "stopped": "ended",
}


def money(amount_minor: int, currency: str) -> str:
    """Minor units as people of the language write them: `$1,234.50`, `¥1,234`."""
    amount = Decimal(amount_minor).scaleb(-exponent(currency))
    return format_currency(amount, currency, locale=LOCALE)


def count(number: int) -> str:
    """1,234."""
    return format_decimal(number, locale=LOCALE)


def words(state: str) -> str:
    """`needs_payment_method` as people read it: needs payment method."""
    return state.replace("_", " ")


def tone(state: str) -> str:
    return TONES.get(state, "plain")


def instant(moment: datetime | None, zone: tzinfo) -> str:
    """`2026-11-02 09:00 JST`: always with its zone, seconds only where there are any."""
    if moment is None:
        return "–"
    local = moment.astimezone(zone)
    clock = "%H:%M:%S" if local.second else "%H:%M"
    return f"{local:%Y-%m-%d} {local.strftime(clock)} {local.tzname()}"


def day(value: date | None) -> str:
    return "–" if value is None else value.isoformat()


def span(length: timedelta) -> str:
    """`3 d 4 h`, `5 min`, `12 s`: the two largest units."""
    seconds = max(0, int(length.total_seconds()))
    parts: list[str] = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if seconds >= size or (name == "s" and not parts):
            parts.append(f"{seconds // size} {name}")
            seconds %= size
        if len(parts) == 2:
            break
    return " ".join(part for n, part in enumerate(parts) if n == 0 or not part.startswith("0 "))


def masked_email(email: str | None) -> str:
    """`a•••@example.com`: enough to recognise, too little to write to."""
    if not email:
        return "–"
    name, _, domain = email.partition("@")
    return f"{name[:1]}•••@{domain}" if domain else "•••"
