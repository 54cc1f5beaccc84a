"""The table of supported endpoints."""

from collections.abc import Callable
from dataclasses import dataclass, field

from simulator.api import customers, disputes, lists, parameters, payment_intents, payment_methods, setup_intents
from simulator.api.call import Call
from simulator.api.errors import Answer
from simulator.api.forms import Spec
from simulator.api.views import Json

Handler = Callable[[Call], Json | Answer]


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    handle: Handler
    params: Spec = field(default_factory=lambda: parameters.EXPAND)
    required: tuple[str, ...] = ()
    reads_time: bool = False  # a GET whose answer depends on the business time; every POST's does

    @property
    def operation(self) -> str:
        """The operation's name in fault rules (simulator/faults/catalogue.py)."""
        return "list" if "limit" in self.params else _OPERATIONS.get((self.method, self.path), "other")


_OPERATIONS = {
    ("POST", "payment_intents"): "create",
    ("POST", "payment_intents/:id/confirm"): "confirm",
    ("POST", "payment_intents/:id/cancel"): "cancel",
    ("GET", "payment_intents/:id"): "retrieve",
}

ROUTES = (
    Route("GET", "account", lists.retrieve_account),
    Route("GET", "charges", lists.list_charges, parameters.CHARGE_LIST),
    Route("GET", "charges/:id", lists.retrieve_charge),
    Route("GET", "customers", lists.list_customers, parameters.CUSTOMER_LIST),
    Route("POST", "customers", customers.create_customer, parameters.CUSTOMER_CREATE),
    Route("GET", "customers/:id", customers.retrieve_customer),
    Route("POST", "customers/:id", customers.update_customer, parameters.CUSTOMER_FIELDS),
    Route("DELETE", "customers/:id", customers.delete_customer),
    Route(
        "GET",
        "customers/:id/payment_methods",
        lists.list_payment_methods_of_customer,
        parameters.CUSTOMER_PAYMENT_METHODS,
    ),
    Route("GET", "disputes/:id", disputes.retrieve_dispute),
    Route("GET", "events", lists.list_events, parameters.EVENT_LIST, reads_time=True),
    Route("GET", "events/:id", lists.retrieve_event),
    Route("GET", "payment_intents", lists.list_payment_intents, parameters.PAYMENT_INTENT_LIST),
    Route(
        "POST",
        "payment_intents",
        payment_intents.create_payment_intent,
        parameters.PAYMENT_INTENT_CREATE,
        ("amount", "currency"),
    ),
    Route("GET", "payment_intents/:id", payment_intents.retrieve_payment_intent),
    Route("POST", "payment_intents/:id", payment_intents.update_payment_intent, parameters.PAYMENT_INTENT_UPDATE),
    Route(
        "POST",
        "payment_intents/:id/cancel",
        payment_intents.cancel_payment_intent,
        parameters.PAYMENT_INTENT_CANCEL,
    ),
    Route(
        "POST",
        "payment_intents/:id/capture",
        payment_intents.capture_payment_intent,
        parameters.PAYMENT_INTENT_CAPTURE,
    ),
    Route(
        "POST",
        "payment_intents/:id/confirm",
        payment_intents.confirm_payment_intent,
        parameters.PAYMENT_INTENT_CONFIRM,
    ),
    Route("GET", "payment_methods", lists.list_payment_methods, parameters.PAYMENT_METHOD_LIST),
    Route(
        "POST",
        "payment_methods",
        payment_methods.create_payment_method,
        parameters.PAYMENT_METHOD_CREATE,
        ("type",),
    ),
    Route("GET", "payment_methods/:id", payment_methods.retrieve_payment_method),
    Route("POST", "payment_methods/:id", payment_methods.update_payment_method, parameters.PAYMENT_METHOD_UPDATE),
    Route(
        "POST",
        "payment_methods/:id/attach",
        payment_methods.attach_payment_method,
        parameters.PAYMENT_METHOD_ATTACH,
        ("customer",),
    ),
    Route("POST", "payment_methods/:id/detach", payment_methods.detach_payment_method),
    Route("GET", "setup_intents", lists.list_setup_intents, parameters.SETUP_INTENT_LIST),
    Route("POST", "setup_intents", setup_intents.create_setup_intent, parameters.SETUP_INTENT_CREATE),
    Route("GET", "setup_intents/:id", setup_intents.retrieve_setup_intent),
    Route("POST", "setup_intents/:id/cancel", setup_intents.cancel_setup_intent, parameters.SETUP_INTENT_CANCEL),
    Route("POST", "setup_intents/:id/confirm", setup_intents.confirm_setup_intent, parameters.SETUP_INTENT_CONFIRM),
)

_BY_SHAPE = {(route.method, route.path): route for route in ROUTES}


def find_route(method: str, path: str) -> tuple[Route, tuple[str, ...]] | None:
    """Match `/v1/payment_intents/pi_1/confirm` by its shape: every second segment is an id."""
    segments = path.removeprefix("/v1/").strip("/").split("/")
    ids = tuple(segments[1::2])
    segments[1::2] = [":id"] * len(ids)
    route = _BY_SHAPE.get((method, "/".join(segments)))
    return (route, ids) if route else None
