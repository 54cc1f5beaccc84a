"""Format money, instants, durations, counts and states for all templates."""

from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal

from babel.numbers import format_currency, format_decimal

from shared.domain.money import exponent

LOCALE = "en"

#: The badge colour of a state: good, waiting, attention or ended. The badge always carries text too.
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
    "awaiting_confirmation": "attention",
    "needs_payment_method": "attention",
    "needs_authentication": "attention",
    "needs_support": "attention",
    "declined": "attention",
    "authentication_needed": "attention",
    "unknown": "attention",
    "trouble": "attention",
    "refused": "attention",
    "past_due": "attention",
    "marked_for_suspension": "attention",
    "uncollectible": "ended",
    "void": "ended",
    "carried_forward": "ended",
    "canceled": "ended",
    "not_sent": "ended",
    "ignored": "ended",
    "stopped": "ended",
}


#: Stored names that are shown in today's vocabulary.
STORED_NAMES: dict[str, str] = {
    "trouble": "error",
    "stripe_event_in_trouble": "stripe_event_error",
    "lane_paused": "queue_paused",
    "lane_resumed": "queue_resumed",
    "ending_requested": "close_requested",
    "ending_taken_back": "close_withdrawn",
    "ending_overtaken": "close_overtaken",
    "decision_refused": "operator_action_refused",
    "attempt_long_in_doubt": "attempt_unknown_for_long",
    "card_mended": "card_updated",
    "run_in_trouble": "run_stalled",
    "bulk_action_begun": "bulk_action_started",
}


def money(amount_minor: int, currency: str) -> str:
    """Format minor units in the page's language: `$1,234.50`, `¥1,234`."""
    amount = Decimal(amount_minor).scaleb(-exponent(currency))
    return format_currency(amount, currency, locale=LOCALE)


def count(number: int) -> str:
    """1,234."""
    return format_decimal(number, locale=LOCALE)


def words(state: str) -> str:
    """Format a stored name as text: `needs_payment_method` becomes needs payment method."""
    return STORED_NAMES.get(state, state).replace("_", " ")


def tone(state: str) -> str:
    return TONES.get(state, "plain")


def instant(moment: datetime | None, zone: tzinfo) -> str:
    """Format an instant with its zone: `2026-11-02 09:00 JST`; seconds only if there are any."""
    if moment is None:
        return "–"
    local = moment.astimezone(zone)
    clock = "%H:%M:%S" if local.second else "%H:%M"
    return f"{local:%Y-%m-%d} {local.strftime(clock)} {local.tzname()}"


def day(value: date | None) -> str:
    return "–" if value is None else value.isoformat()


def span(length: timedelta) -> str:
    """Format a duration with its two largest units: `3 d 4 h`, `5 min`, `12 s`."""
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
    """Mask an email address: `a•••@example.com`."""
    if not email:
        return "–"
    name, _, domain = email.partition("@")
    return f"{name[:1]}•••@{domain}" if domain else "•••"
