"""Previews of bulk actions: counts and sums by SQL, and excluded payments by reason."""

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Select, insert, select

from shared.bulk import preview as previewing
from shared.bulk.actions import BulkAction
from shared.bulk.preview import Preview, preview
from shared.db.tables.accounts import card_blocks
from shared.db.tables.operators import bulk_actions, bulk_items
from shared.db.tables.payments import payments
from shared.domain.calendar import UNTIL_RELEASED
from shared.domain.refusals import Refused
from shared.domain.states import PaymentState
from shared.gateway.port import Answer, Outcome
from tests.seed import Account, add_account
from tests.world import World


def everything() -> Select[Any]:
    return select(payments.c.id)


def previewed(world: World, action: BulkAction, ids: Select[Any] | None = None) -> Preview:
    with world.engine.connect() as connection:
        found = preview(
            connection, action, everything() if ids is None else ids, world.clock.now(), world.machine()
        )
    assert isinstance(found, Preview), found
    return found


def left_out(found: Preview) -> dict[str, int]:
    return {one.why: one.count for one in found.left_out}


def with_card(world: World, name: str, coverage: str = "global") -> Account:
    account = world.account(name, coverage)
    world.add_primary_card(account, world.simulator.make_card(coverage).token)  # a fingerprint of its own
    return account


def put_into_another(world: World, payment: UUID, who: str = "operator:bob") -> None:
    with world.engine.begin() as connection:
        bulk_id = connection.execute(
            insert(bulk_actions)
            .values(
                action="hold",
                filter={},
                parameters={},
                reason="r",
                requested_by=who,
                requested_at=world.clock.now(),
                state="running",
                digest="",
                sums={},
                expected=1,
                counts={},
            )
            .returning(bulk_actions.c.id)
        ).scalar_one()
        connection.execute(
            insert(bulk_items).values(
                bulk_id=bulk_id, payment_id=payment, amount_minor=1, currency="USD", state="waiting"
            )
        )


def test_preview_counts_and_sums_by_currency(world: World) -> None:
    anna, taro = with_card(world, "A-1"), with_card(world, "T-1", "japan")
    for amount in (5_00, 7_01):
        world.add_due_payment(anna, amount)
    world.add_due_payment(taro, 900)
    found = previewed(world, BulkAction.CHARGE)
    assert (found.count, found.sums, found.left_out) == (3, {"JPY": 900, "USD": 12_01}, ())


def test_digest_depends_only_on_ids_and_amounts(world: World) -> None:
    anna = with_card(world, "A-1")
    owed = {world.add_due_payment(anna, amount): amount for amount in (5_00, 7_01, 3)}
    first = previewed(world, BulkAction.CHARGE)
    lines = "\n".join(f"{payment}:{owed[payment]}" for payment in sorted(owed))
    assert first.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert previewed(world, BulkAction.WRITE_OFF).digest == first.digest
    world.add_due_payment(anna, 1)
    assert previewed(world, BulkAction.CHARGE).digest != first.digest


def test_every_payment_excluded_from_a_charge_is_counted_by_reason(world: World) -> None:
    anna = with_card(world, "A-1")
    now = world.clock.now()
    world.add_due_payment(anna)
    world.add_due_payment(anna, state=PaymentState.PAID, paid_at=now)
    world.add_due_payment(anna, state=PaymentState.VOID)
    world.add_due_payment(anna, held_until=now + timedelta(days=1), state_reason="disputed")
    world.add_due_payment(anna, pending_close_as="void")
    world.add_due_payment(anna, lane="interactive", trigger="operator", requested_by="operator:bob")
    world.add_due_payment(anna, state=PaymentState.AWAITING_TRANSFER, state_reason="pays by bank transfer")
    world.add_due_payment(anna, state=PaymentState.AUTHORISED)
    put_into_another(world, world.add_due_payment(anna))
    world.add_due_payment(world.account("no-card"))
    with world.engine.begin() as connection:
        transfer = add_account(connection, "transfer", kind="bank_transfer")
    world.add_due_payment(transfer)
    blocked = world.account("blocked")
    card = world.add_primary_card(blocked, world.simulator.make_card("global").token)
    world.add_due_payment(blocked)
    doubtful = with_card(world, "doubtful")
    in_doubt = world.add_due_payment(doubtful)
    world.runtime.gateways["global"].confirm_payment_intent = lambda *_: Answer(Outcome.UNKNOWN, "lost")
    world.charge(in_doubt)
    with world.engine.begin() as connection:
        connection.execute(
            insert(card_blocks).values(
                coverage="global", fingerprint="of-nobody", reason="r", attempt_id=in_doubt, blocked_at=now
            )
        )
        connection.execute(
            insert(card_blocks).values(
                coverage="global",
                fingerprint=card.fingerprint,
                reason="stolen",
                attempt_id=in_doubt,
                blocked_at=now,
            )
        )
    found = previewed(world, BulkAction.CHARGE)
    assert left_out(found) == {
        "paid": 1,
        "ended": 1,
        "elsewhere": 1,
        "being_ended": 1,
        "attempt_open": 1,
        "authorised": 1,
        "asked_already": 1,
        "transfer": 2,
        "held": 1,
        "no_card": 1,
        "card_blocked": 1,
    }
    assert found.count == 1
    assert all(one.words for one in found.left_out)
    (elsewhere,) = (one for one in found.left_out if one.why == "elsewhere")
    assert elsewhere.who == "operator:bob"
    assert elsewhere.bulk_id is not None


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (BulkAction.HOLD, {"held_already": 1, "being_ended": 1}),
        (BulkAction.RELEASE, {"not_held": 2}),
        (BulkAction.WRITE_OFF, {"being_ended": 1}),
        (BulkAction.VOID, {"being_ended": 1}),
    ],
)
def test_each_action_excludes_what_the_single_action_refuses(
    world: World, action: BulkAction, expected: dict[str, int]
) -> None:
    account = world.account("A-1")  # without a card: only a charge needs one
    world.add_due_payment(account)
    world.add_due_payment(account, held_until=UNTIL_RELEASED, state_reason="disputed")
    world.add_due_payment(account, pending_close_as="uncollectible")
    found = previewed(world, action)
    assert left_out(found) == expected
    assert found.matching == 3


def test_expired_hold_is_not_a_hold(world: World) -> None:
    anna = with_card(world, "A-1")
    world.add_due_payment(anna, held_until=world.clock.now(), state_reason="was held")
    assert previewed(world, BulkAction.CHARGE).count == 1
    assert previewed(world, BulkAction.RELEASE).count == 0


def test_preview_of_no_match_is_empty(world: World) -> None:
    found = previewed(world, BulkAction.CHARGE)
    assert (found.count, found.matching, found.sums, found.digest) == (0, 0, {}, previewing.NOTHING)


def test_selection_above_the_cap_is_refused_with_advice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = with_card(world, "A-1")
    for _ in range(3):
        world.add_due_payment(anna)
    monkeypatch.setattr(previewing, "CAP", 3)
    assert previewed(world, BulkAction.CHARGE).count == 3
    monkeypatch.setattr(previewing, "CAP", 2)
    with world.engine.connect() as connection:
        found = preview(connection, BulkAction.CHARGE, everything(), world.clock.now(), world.machine())
    assert isinstance(found, Refused)
    assert "more than 2 payments match" in found.reason
    assert "narrow the filter" in found.what_to_do
