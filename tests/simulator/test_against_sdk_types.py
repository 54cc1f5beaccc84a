"""Checks the simulator against the SDK's types: every answered field, every enum value, every accepted parameter.

The SDK's types are generated from Stripe's own specification, so this is the closest check without Stripe.
"""

import builtins
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import stripe
from stripe import params as sdk_params

from simulator.api import parameters
from simulator.api.forms import Kind, Spec
from simulator.api.routes import ROUTES
from simulator.client import SimulatorClient
from simulator.issuer.stories import AlwaysDeclines, NeedsAuthentication
from tests.simulator.sdk_calls import body, confirm, new_intent, refusal


class NotAtHome(stripe.StripeObject):
    """A class that the SDK names under an alias of its own file; the simulator answers none of them."""


class SdkNames(dict[str, Any]):
    """What a forward reference of the SDK may name. The SDK loads its classes when they are used."""

    def __missing__(self, name: str) -> Any:
        for home in (builtins, sdk_params, stripe, typing):
            try:
                return getattr(home, name)
            except AttributeError:
                continue
        return stripe if name == "stripe" else NotAtHome


# -- answers


def problems_of(value: Any, declared: Any, path: str) -> list[str]:
    """Walk a JSON value along the declared type; return what doesn't fit."""
    declared = _resolved(declared)
    if value is None:
        return [] if _allows_none(declared) else [f"{path} is null, but not optional"]
    if isinstance(value, list):
        inner = next((get_args(_resolved(each))[0] for each in _branches(declared) if _is_list(each)), Any)
        return [found for i, item in enumerate(value) for found in problems_of(item, inner, f"{path}[{i}]")]
    if isinstance(value, dict):
        kind = _class_of(declared)
        return [] if kind is None else _problems_of_object(value, kind, path)
    literals = [word for each in _branches(declared) if get_origin(each) is Literal for word in get_args(each)]
    if literals and value not in literals:
        return [f"{path} is {value!r}, which is none of {literals}"]
    plain = tuple(each for each in _branches(declared) if isinstance(each, type))
    if plain and not literals and not isinstance(value, plain):
        return [f"{path} is {value!r}, declared {declared}"]
    return []


def _problems_of_object(value: dict[str, Any], kind: type, path: str) -> list[str]:
    declared = {name: each for base in reversed(kind.__mro__) for name, each in _annotations(base).items()}
    known = {name: each for name, each in declared.items() if not name.startswith("_") and name != "OBJECT_NAME"}
    found = [f"{path}.{name} is not a field of {kind.__qualname__}" for name in value.keys() - known.keys()]
    if kind is not stripe.ErrorObject:
        missing = [name for name, each in known.items() if name not in value and not _allows_none(_resolved(each))]
        found += [f"{path}.{name} is missing" for name in missing]
    for name in value.keys() & known.keys():
        found += problems_of(value[name], known[name], f"{path}.{name}")
    return found


def _annotations(kind: type) -> dict[str, Any]:
    return dict(vars(kind).get("__annotations__", {}))


def _resolved(declared: Any) -> Any:
    """Forward references and strings name classes of the SDK."""
    name = declared.__forward_arg__ if isinstance(declared, typing.ForwardRef) else declared
    if isinstance(name, str):
        return eval(name, {}, SdkNames())  # noqa: S307
    return declared


def _branches(declared: Any) -> list[Any]:
    declared = _resolved(declared)
    if get_origin(declared) in (Union, types.UnionType):
        return [leaf for each in get_args(declared) for leaf in _branches(each)]
    return [declared]


def _allows_none(declared: Any) -> bool:
    return any(each is type(None) or each is Any for each in _branches(declared))


def _is_list(declared: Any) -> bool:
    return get_origin(declared) in (list, typing.List)  # noqa: UP006


def _class_of(declared: Any) -> type | None:
    """The SDK class of an object; None where the SDK leaves it untyped (metadata)."""
    for each in _branches(declared):
        kind = get_origin(each) or each
        if isinstance(kind, type) and issubclass(kind, stripe.StripeObject) and _annotations(kind):
            return kind
    return None


OBJECTS: dict[str, type] = {
    "account": stripe.Account,
    "charge": stripe.Charge,
    "customer": stripe.Customer,
    "dispute": stripe.Dispute,
    "event": stripe.Event,
    "payment_intent": stripe.PaymentIntent,
    "payment_method": stripe.PaymentMethod,
    "setup_intent": stripe.SetupIntent,
}


def plain(answered: Any) -> dict[str, Any]:
    found: dict[str, Any] = answered.to_dict()
    return found


def test_every_answer_fits_the_sdks_types(sim: SimulatorClient, client: stripe.StripeClient, customer: str) -> None:
    answers: list[dict[str, Any]] = [plain(client.v1.accounts.retrieve_current())]
    answers.append(plain(client.v1.customers.update(customer, {"address": {"city": "Oslo"}, "phone": "1"})))
    registered = sim.register_card("global", customer)
    answers.append(plain(client.v1.setup_intents.retrieve(registered.setup_intent)))
    answers.append(plain(client.v1.payment_methods.retrieve(registered.payment_method)))
    wants_3ds = sim.make_card("global", NeedsAuthentication()).token
    calls: list[tuple[dict[str, Any], str]] = [
        ({}, registered.payment_method),
        ({"capture_method": "manual"}, "pm_card_visa"),
        ({"currency": "jpy"}, "pm_card_jcb"),
    ]
    for more, method in calls:
        answers.append(plain(confirm(client, new_intent(client, customer, **more).id, method)))
    waiting = new_intent(client, customer, payment_method=wants_3ds)
    answers.append(plain(client.v1.payment_intents.confirm(waiting.id)))
    back = client.v1.payment_intents.confirm(waiting.id, {"return_url": "https://example.com/back"})
    answers.append(plain(back))
    answers.append(plain(client.v1.payment_intents.cancel(waiting.id, {"cancellation_reason": "abandoned"})))
    answers.append(plain(client.v1.setup_intents.create({"customer": customer, "payment_method": "pm_card_amex"})))
    for brand in ("visa", "mastercard"):
        bad = sim.make_card("global", AlwaysDeclines(decline_code="lost_card"), brand=brand).token
        intent = new_intent(client, customer)
        refusal(lambda: confirm(client, intent.id, bad))  # noqa: B023
        answers.append(plain(client.v1.payment_intents.retrieve(intent.id, {"expand": ["latest_charge"]})))
    captured = next(charge for charge in client.v1.charges.list({"limit": 100}).data if charge.captured)
    dispute = sim.dispute_charge("global", captured.id)
    sim.close_dispute("global", dispute, is_won=True)
    answers.append(plain(client.v1.disputes.retrieve(dispute)))
    for listed in (client.v1.charges.list({"limit": 100}), client.v1.events.list({"limit": 100})):
        answers += [plain(one) for one in listed.data]
    answers += [event["data"]["object"] for event in answers if event["object"] == "event"]

    assert {answer["object"] for answer in answers} == OBJECTS.keys()
    found = {
        problem
        for answer in answers
        for problem in problems_of(answer, OBJECTS[answer["object"]], answer["object"])
    }
    assert found == set()


def test_every_error_fits_the_sdks_error_object(sim: SimulatorClient, client: stripe.StripeClient) -> None:
    intent = new_intent(client, None)
    errors = [
        refusal(lambda: confirm(client, intent.id, "pm_card_chargeDeclined")),
        refusal(lambda: client.v1.payment_intents.confirm(intent.id)),
        refusal(lambda: client.v1.payment_intents.retrieve("pi_none")),
        refusal(lambda: new_intent(client, None, amount=1)),
        refusal(
            lambda: client.v1.setup_intents.create({"payment_method": "pm_card_chargeDeclined", "confirm": True})
        ),
    ]
    found = [problem for error in errors for problem in problems_of(body(error), stripe.ErrorObject, "error")]
    assert found == []
    codes = {
        word
        for each in _branches(stripe.PaymentIntent.LastPaymentError.__annotations__["code"])
        for word in get_args(each)
    }
    assert {body(error)["code"] for error in errors} <= codes


def test_the_type_checker_finds_errors() -> None:
    """The checker itself, held to a broken object."""
    wrong = {"object": "charge", "id": None, "status": "done", "colour": "red", "outcome": {"type": 5}}
    found = problems_of(wrong, stripe.Charge, "charge")
    for expected in (
        "charge.id is null",
        "charge.status is 'done'",
        "charge.colour is not",
        "charge.outcome.type is 5",
    ):
        assert any(problem.startswith(expected) for problem in found), expected
    assert "charge.amount is missing" in found


# -- parameters

#: The SDK's parameter type of each endpoint that takes parameters of its own.
PARAMETER_TYPES = {
    "GET charges": "ChargeListParams",
    "GET customers": "CustomerListParams",
    "POST customers": "CustomerCreateParams",
    "POST customers/:id": "CustomerUpdateParams",
    "GET customers/:id/payment_methods": "CustomerPaymentMethodListParams",
    "GET events": "EventListParams",
    "GET payment_intents": "PaymentIntentListParams",
    "POST payment_intents": "PaymentIntentCreateParams",
    "POST payment_intents/:id": "PaymentIntentUpdateParams",
    "POST payment_intents/:id/cancel": "PaymentIntentCancelParams",
    "POST payment_intents/:id/capture": "PaymentIntentCaptureParams",
    "POST payment_intents/:id/confirm": "PaymentIntentConfirmParams",
    "GET payment_methods": "PaymentMethodListParams",
    "POST payment_methods": "PaymentMethodCreateParams",
    "POST payment_methods/:id": "PaymentMethodUpdateParams",
    "POST payment_methods/:id/attach": "PaymentMethodAttachParams",
    "GET setup_intents": "SetupIntentListParams",
    "POST setup_intents": "SetupIntentCreateParams",
    "POST setup_intents/:id/cancel": "SetupIntentCancelParams",
    "POST setup_intents/:id/confirm": "SetupIntentConfirmParams",
}


def unknown_parameters(spec: Spec, declared: Any, path: str) -> list[str]:
    """Names and words of a parameter table that the SDK's TypedDict doesn't have."""
    fields = _typed_dict_fields(declared)
    found = []
    for name, kind in spec.items():
        if kind is Kind.GONE:
            found += [f"{path}[{name}] is there again"] if name in fields else []
        elif name not in fields:
            found.append(f"{path}[{name}] is not a parameter")
        elif isinstance(kind, frozenset):
            literals = {word for each in _param_branches(fields[name]) for word in get_args(each)}
            has_bool = any(each is bool for each in _param_branches(fields[name]))
            words = kind - {"true", "false"} if has_bool else kind
            found += [f"{path}[{name}]={word} is no word of it" for word in sorted(words - literals)]
        elif not isinstance(kind, Kind):
            below = [each for each in _param_branches(fields[name]) if hasattr(each, "__total__")]
            found += (
                unknown_parameters(kind, below[0], f"{path}[{name}]") if below else [f"{path}[{name}] is no hash"]
            )
    return found


def _typed_dict_fields(declared: Any) -> dict[str, Any]:
    return {
        name: each
        for base in [declared, *getattr(declared, "__orig_bases__", ())]
        for name, each in getattr(base, "__annotations__", {}).items()
    }


def _param_branches(declared: Any) -> list[Any]:
    if isinstance(declared, typing.ForwardRef):
        declared = declared.__forward_arg__
    if isinstance(declared, str):
        declared = eval(_without_quotes(declared), {}, SdkNames())  # noqa: S307
    if get_origin(declared) in (Union, types.UnionType, typing.NotRequired):
        return [leaf for each in get_args(declared) for leaf in _param_branches(each)]
    return [declared]


def _without_quotes(written: str) -> str:
    """`Literal['']|Foo` evaluates as it is, once the union's operands are types that can be joined."""
    return "Union[" + ",".join(_split_union(written)) + "]"


def _split_union(written: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, character in enumerate(written):
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append(written[start:i])
            start = i + 1
    return [*parts, written[start:]]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_sdk_knows_every_accepted_parameter(route: Any) -> None:
    if route.params is parameters.EXPAND:
        return
    declared = getattr(sdk_params, PARAMETER_TYPES[f"{route.method} {route.path}"])
    assert unknown_parameters(route.params, declared, route.path) == []
