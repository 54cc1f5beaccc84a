"""Lists and `expand`, shared by all reading requests."""

from collections.abc import Sequence
from typing import Any

from simulator.api.call import Call
from simulator.api.errors import bad_parameter
from simulator.api.views import Json, account, event, render
from simulator.store.records import Charge, Customer, Event, PaymentIntent, PaymentMethod, Record, SetupIntent
from simulator.store.store import Page

MAX_LIMIT = 100  # docs.stripe.com/api/pagination
EVENTS_KEPT_S = 30 * 86_400  # docs.stripe.com/api/events: "going back up to 30 days"
MAX_EXPAND_DEPTH = 4  # docs.stripe.com/api/expanding_objects

#: Properties that hold an id which `expand[]` turns into the object.
EXPANDABLE: dict[str, type[Record]] = {
    "customer": Customer,
    "default_payment_method": PaymentMethod,
    "latest_charge": Charge,
    "payment_intent": PaymentIntent,
    "payment_method": PaymentMethod,
}


def list_page(
    call: Call,
    kind: type[Record],
    *,
    owner: str | None = None,
    parents: Sequence[str] = (),
    since: int | None = None,
) -> Json:
    """Answer a list request, filtered by customer (`owner`) and the kind's other filter (`parents`).

    Nothing created before `since` (seconds of the business clock) is listed.
    """
    limit = call.params.get("limit", 10)
    if not 1 <= limit <= MAX_LIMIT:
        raise bad_parameter(f"Invalid limit: it must be between 1 and {MAX_LIMIT}", "limit")
    for cursor in ("starting_after", "ending_before"):
        if named := call.given(cursor):
            call.named(kind, named, cursor)
    cursors = call.given("starting_after"), call.given("ending_before")
    page = Page(limit, *cursors, call.given("created"), call.lists_until_ns, since)
    records, has_more = call.store.page(kind, call.account, page, owner=owner, parents=parents)
    data = [render(record) for record in records]
    return {"object": "list", "data": data, "has_more": has_more, "url": call.path}


def _of_customer(call: Call) -> str | None:
    if customer := call.given("customer"):
        call.named(Customer, customer, "customer")
        return str(customer)
    return None


def list_customers(call: Call) -> Json:
    return list_page(call, Customer, parents=[email] if (email := call.given("email")) else ())


def list_payment_methods(call: Call) -> Json:
    return list_page(call, PaymentMethod, owner=_of_customer(call))


def list_payment_methods_of_customer(call: Call) -> Json:
    return list_page(call, PaymentMethod, owner=call.subject(Customer).id)


def list_setup_intents(call: Call) -> Json:
    methods = [method] if (method := call.given("payment_method")) else ()
    return list_page(call, SetupIntent, owner=_of_customer(call), parents=methods)


def list_payment_intents(call: Call) -> Json:
    return list_page(call, PaymentIntent, owner=_of_customer(call))


def list_charges(call: Call) -> Json:
    intents = [intent] if (intent := call.given("payment_intent")) else ()
    return list_page(call, Charge, owner=_of_customer(call), parents=intents)


def list_events(call: Call) -> Json:
    one = call.given("type")
    types = [one] if one else call.params.get("types", ())
    return list_page(call, Event, parents=types, since=call.now - EVENTS_KEPT_S)


def retrieve_charge(call: Call) -> Json:
    return render(call.subject(Charge))


def retrieve_event(call: Call) -> Json:
    found = call.subject(Event)
    return event(found, call.processor.outbox.pending_of(found.id))


def retrieve_account(call: Call) -> Json:
    return account(call.account)


def expand(call: Call, body: Json, paths: Sequence[str]) -> None:
    """Replace ids by objects in place, as `expand[]` says; 400 for a property that can't be expanded."""
    for path in paths:
        parts = path.split(".")
        if len(parts) > MAX_EXPAND_DEPTH:
            raise bad_parameter(f"You cannot expand more than {MAX_EXPAND_DEPTH} levels ({path})", "expand")
        _expand(call, body, parts, path)


def _expand(call: Call, node: Any, parts: list[str], path: str) -> None:
    if isinstance(node, list):
        for item in node:
            _expand(call, item, parts, path)
        return
    name, *below = parts
    value = node.get(name) if isinstance(node, dict) else None
    is_there = isinstance(node, dict) and name in node
    is_on_the_way = bool(below) and isinstance(value, dict | list)
    if not is_there or (name not in EXPANDABLE and not is_on_the_way):
        raise bad_parameter(f"This property cannot be expanded ({path}).", "expand")
    if isinstance(value, str) and (found := call.store.get(EXPANDABLE[name], call.account, value)):
        value = node[name] = render(found)
    if below and value is not None:
        _expand(call, value, below, path)
