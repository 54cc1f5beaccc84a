"""Each kind of the catalogue has its code at the place that the catalogue names."""

from simulator.faults.answers import REFUSALS
from simulator.faults.catalogue import FAULTS, Place, faults_at
from simulator.faults.effects import EFFECTS
from simulator.faults.scripted import DELIVERY_FAULTS


def test_effects_are_the_kinds_at_the_endpoint() -> None:
    assert set(EFFECTS) == faults_at(Place.ENDPOINT)


def test_delivery_faults_are_the_kinds_before_a_webhook_is_sent() -> None:
    assert set(DELIVERY_FAULTS) == faults_at(Place.DELIVERY)
    assert {name for name, kind in FAULTS.items() if not kind.operations} == faults_at(Place.DELIVERY)


def test_error_answers_belong_to_kinds_that_do_not_apply_the_request_later() -> None:
    assert faults_at(Place.ARRIVAL) - REFUSALS == {"slow_before", "cut_before", "canceled_by_person"}
    assert REFUSALS - faults_at(Place.ARRIVAL) == {"server_error", "server_error_unapplied"}
