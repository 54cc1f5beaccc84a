"""Customers: create, retrieve, update, delete."""

from dataclasses import replace
from typing import Any

from simulator.api.call import Call, merged_metadata
from simulator.api.payment_methods import attach_to, detach, resolve
from simulator.api.views import Json, customer
from simulator.store.records import Customer, PaymentMethod, to_plain
from simulator.store.store import Page

_PLAIN = ("address", "description", "email", "name", "phone", "preferred_locales")


def create_customer(call: Call) -> Json:
    record = Customer(
        id=call.new_id(Customer),
        account=call.account,
        created=call.now,
        metadata=merged_metadata({}, call.given("metadata")),
        **_fields(call),
    )
    call.store.add(record)
    if token := call.given("payment_method"):
        attach_to(call, resolve(call, token), record.id)
    call.emit("customer.created", record)
    return customer(record)


def retrieve_customer(call: Call) -> Json:
    """A deleted customer is still shown, as deleted (docs.stripe.com/api/customers/retrieve)."""
    record = call.subject(Customer)
    return _deleted(record) if record.is_deleted else customer(record)


def delete_customer(call: Call) -> Json:
    """Delete a customer for good, and detach its cards (docs.stripe.com/api/customers/delete)."""
    record = _living(call)
    while methods := call.store.page(PaymentMethod, call.account, Page(limit=100), owner=record.id)[0]:
        for method in methods:
            detach(call, method)
    call.store.save(replace(record, is_deleted=True))
    call.emit("customer.deleted", record)
    return _deleted(record)


def _living(call: Call) -> Customer:
    return call.named(Customer, call.subject(Customer).id, "id")


def _deleted(record: Customer) -> Json:
    return {"id": record.id, "object": "customer", "deleted": True}


def update_customer(call: Call) -> Json:
    old = _living(call)
    new = replace(old, metadata=merged_metadata(old.metadata, call.given("metadata")), **_fields(call))
    call.store.save(new)
    before, after = to_plain(old), to_plain(new)
    changed = {
        name: before.get(name) for name in after.keys() | before.keys() if before.get(name) != after.get(name)
    }
    call.emit("customer.updated", new, previous=changed)
    return customer(new)


def _fields(call: Call) -> dict[str, Any]:
    fields = {name: call.params[name] for name in _PLAIN if name in call.params}
    settings = call.given("invoice_settings") or {}
    if "default_payment_method" in settings:
        if method := settings["default_payment_method"]:
            call.named(PaymentMethod, method, "invoice_settings[default_payment_method]")
        fields["default_payment_method"] = method
    return fields
