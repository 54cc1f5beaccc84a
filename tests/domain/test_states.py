"""The transition tables: complete, closed, and the same as in docs/states.md."""

import re
from pathlib import Path

import pytest

from shared.domain.states import (
    ATTEMPT_MOVES,
    CHARGEABLE,
    ENDED,
    OPEN_ATTEMPT,
    PAYMENT_MOVES,
    UNPAID,
    WAITING_FOR_CARD,
    AttemptState,
    ForbiddenMoveError,
    PaymentState,
    check_attempt_move,
    check_payment_move,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "states.md"


def test_every_state_has_a_row() -> None:
    assert set(PAYMENT_MOVES) == set(PaymentState)
    assert set(ATTEMPT_MOVES) == set(AttemptState)


def test_paid_is_reachable_from_every_state_and_final() -> None:
    for state in set(PaymentState) - {PaymentState.PAID}:
        assert PaymentState.PAID in PAYMENT_MOVES[state], f"money that comes in while {state} would be refused"
    assert PAYMENT_MOVES[PaymentState.PAID] == frozenset()


def test_closed_state_is_left_only_by_evidence_of_money() -> None:
    for state in ENDED - {PaymentState.PAID}:
        assert PAYMENT_MOVES[state] == {PaymentState.PAID}


def test_every_state_is_reachable_from_due() -> None:
    reached, frontier = set(), {PaymentState.DUE}
    while frontier:
        reached |= frontier
        frontier = {after for state in frontier for after in PAYMENT_MOVES[state]} - reached
    assert reached == set(PaymentState)


def test_closed_attempt_is_changed_only_by_evidence_of_money() -> None:
    for state in set(AttemptState) - OPEN_ATTEMPT:
        assert ATTEMPT_MOVES[state] <= {AttemptState.SUCCEEDED}
    assert ATTEMPT_MOVES[AttemptState.SUCCEEDED] == frozenset()


def test_transition_outside_the_table_is_refused() -> None:
    with pytest.raises(ForbiddenMoveError, match="from paid to due"):
        check_payment_move(PaymentState.PAID, PaymentState.DUE)
    with pytest.raises(ForbiddenMoveError, match="from unknown to started"):
        check_attempt_move(AttemptState.UNKNOWN, AttemptState.STARTED)


def test_exactly_the_transitions_of_the_table_are_allowed() -> None:
    for before in PaymentState:
        for after in PaymentState:
            if after in PAYMENT_MOVES[before] or after is before:  # staying is no move: only its time changes
                check_payment_move(before, after)
            else:
                with pytest.raises(ForbiddenMoveError, match=f"a payment may not go from {before} to {after};"):
                    check_payment_move(before, after)
    for earlier in AttemptState:
        for later in AttemptState:
            if later in ATTEMPT_MOVES[earlier]:
                check_attempt_move(earlier, later)
            else:
                with pytest.raises(ForbiddenMoveError, match=f"an attempt may not go from {earlier} to {later};"):
                    check_attempt_move(earlier, later)


def test_attempt_never_returns_to_a_state_that_may_send() -> None:
    assert all(AttemptState.STARTED not in moves for moves in ATTEMPT_MOVES.values())


def test_sets_of_states_are_pinned() -> None:
    """One value more or less in these sets would charge a payment wrongly, or forget it."""
    assert {PaymentState.DUE, PaymentState.RETRY_SCHEDULED} == CHARGEABLE
    assert {PaymentState.NEEDS_PAYMENT_METHOD, PaymentState.NEEDS_AUTHENTICATION} == WAITING_FOR_CARD
    assert {AttemptState.STARTED, AttemptState.UNKNOWN} == OPEN_ATTEMPT
    assert {state for state in PaymentState if PAYMENT_MOVES[state] <= {PaymentState.PAID}} == ENDED
    assert not CHARGEABLE & WAITING_FOR_CARD
    assert set(PaymentState) == UNPAID | ENDED
    assert not UNPAID & ENDED
    assert CHARGEABLE | WAITING_FOR_CARD <= UNPAID
    for state in CHARGEABLE | WAITING_FOR_CARD:
        assert PaymentState.DUE in PAYMENT_MOVES[state] | {state}, f"a new card couldn't make {state} due"


@pytest.mark.parametrize(("heading", "moves"), [("Payment", PAYMENT_MOVES), ("Attempt", ATTEMPT_MOVES)])
def test_document_shows_the_table(heading: str, moves: dict[str, frozenset[str]]) -> None:
    section = DOCUMENT.read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    shown = {state: frozenset(re.findall(r"`(\w+)`", after)) for state, after in rows}
    assert shown == {str(state): frozenset(map(str, after)) for state, after in moves.items()}
