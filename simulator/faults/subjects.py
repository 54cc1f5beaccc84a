"""The customer and card of a request or a webhook, read only if a rule names one."""

from urllib.parse import parse_qsl

from simulator.faults.hooks import Arrival
from simulator.faults.rules import Subject
from simulator.issuer import cards, story_cards
from simulator.store.records import Charge, Event, PaymentIntent, PaymentMethod, SetupIntent
from simulator.store.store import Store


def subject_of_request(store: Store, arrival: Arrival) -> Subject:
    """The customer and card of the form, or else of the object in the path."""
    form = dict(parse_qsl(arrival.form))
    customer, card = form.get("customer"), form.get("payment_method")
    for named in arrival.ids:
        owner, used = _of_object(store, arrival.account, named)
        customer, card = customer or owner, card or used
    return Subject(customer, _names(store, arrival.account, card))


def subject_of_event(store: Store, event: Event) -> Subject:
    """The customer and card of the event's object."""
    subject = event.subject
    is_card, is_customer = event.subject_table == "payment_methods", event.subject_table == "customers"
    customer = subject["id"] if is_customer else subject.get("customer")
    card = (
        subject["id"]
        if is_card
        else subject.get("payment_method") or _card_of_charge(store, event.account, subject)
    )
    return Subject(customer, _names(store, event.account, card))


def _of_object(store: Store, account: str, named: str) -> tuple[str | None, str | None]:
    """Customer and card of an object of the account, as far as it has them."""
    if named.startswith("cus_"):
        return named, None
    if named.startswith("pm_"):
        method = store.get(PaymentMethod, account, named)
        return (method.customer if method else None), named
    if named.startswith("seti_"):
        setup = store.get(SetupIntent, account, named)
        return (setup.customer, setup.payment_method) if setup else (None, None)
    intent = store.get(PaymentIntent, account, named)
    if intent is None:
        return None, None
    last = {"latest_charge": intent.latest_charge}
    return intent.customer, intent.payment_method or _card_of_charge(store, account, last)


def _card_of_charge(store: Store, account: str, subject: dict[str, str | None]) -> str | None:
    """A decline removes the card from its PaymentIntent; the charge still has it."""
    charge = store.get(Charge, account, latest) if (latest := subject.get("latest_charge")) else None
    return charge.payment_method if charge else None


def _names(store: Store, account: str, card: str | None) -> frozenset[str]:
    """PaymentMethod id or token as given, the fingerprint, and the token of a card with a story."""
    if card is None:
        return frozenset()
    found: story_cards.StoryCard | None
    fingerprint: str | None = None
    if card.startswith("pm_story_"):
        found = story_cards.by_token(store, account, card)
        fingerprint = found.fingerprint if found else None
    elif test_card := cards.by_token(card):
        fingerprint = cards.fingerprint_of(account, test_card.number)
    elif method := store.get(PaymentMethod, account, card):
        fingerprint = method.fingerprint
    found = story_cards.find(store, account, fingerprint) if fingerprint else None
    names = (card, fingerprint, found.token if found else None)
    return frozenset(name for name in names if name)
