"""The transition tables: complete, closed, and the same as in docs/states.md."""

import re
from pathlib import Path

import pytest

from shared.domain.states import (
    ATTEMPT_MOVES,
    ENDED,
    OPEN_ATTEMPT,
    PAYMENT_MOVES,
    AttemptState,
    ForbiddenMoveError,
    PaymentState,
    check_attempt_move,
    check_payment_move,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "states.md"


def test_every_state_has_its_row() -> None:
    assert set(PAYMENT_MOVES) == set(PaymentState)
    assert set(ATTEMPT_MOVES) == set(AttemptState)


def test_paid_is_reachable_from_everywhere_and_left_by_nothing() -> None:
    for state in set(PaymentState) - {PaymentState.PAID}:
        assert PaymentState.PAID in PAYMENT_MOVES[state], f"money that comes in while {state} would be refused"
    assert PAYMENT_MOVES[PaymentState.PAID] == frozenset()


def test_an_end_is_left_only_by_evidence_of_money() -> None:
    for state in ENDED - {PaymentState.PAID}:
        assert PAYMENT_MOVES[state] == {PaymentState.PAID}


def test_every_state_is_reachable_from_due() -> None:
    reached, frontier = set(), {PaymentState.DUE}
    while frontier:
        reached |= frontier
        frontier = {after for state in frontier for after in PAYMENT_MOVES[state]} - reached
    assert reached == set(PaymentState)


def test_a_closed_attempt_is_changed_only_by_evidence_of_money() -> None:
    for state in set(AttemptState) - OPEN_ATTEMPT:
        assert ATTEMPT_MOVES[state] <= {AttemptState.SUCCEEDED}
    assert ATTEMPT_MOVES[AttemptState.SUCCEEDED] == frozenset()


def test_a_move_that_the_table_does_not_list_is_refused() -> None:
    with pytest.raises(ForbiddenMoveError, match="from paid to due"):
        check_payment_move(PaymentState.PAID, PaymentState.DUE)
    with pytest.raises(ForbiddenMoveError, match="from unknown to started"):
        check_attempt_move(AttemptState.UNKNOWN, AttemptState.STARTED)


@pytest.mark.parametrize(("heading", "moves"), [("Payment", PAYMENT_MOVES), ("Attempt", ATTEMPT_MOVES)])
def test_the_document_shows_the_table(heading: str, moves: dict[str, frozenset[str]]) -> None:
    section = DOCUMENT.read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    shown = {state: frozenset(re.findall(r"`(\w+)`", after)) for state, after in rows}
    assert shown == {str(state): frozenset(map(str, after)) for state, after in moves.items()}
