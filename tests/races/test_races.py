"""Concurrent actors on one payment: it is paid once, and nothing is left open.

200 rounds by default. More: `RACE_ROUNDS=5000`; other ones: `RACE_SEED=100`, the seed of the first company.
"""

import os

import pytest

from tests.races.conftest import PROCESSES, OpenTrack
from tests.races.plan import LOST, PAIRS, Role, Situation, plan_late_rounds, plan_rounds
from tests.races.verdict import breaks_of

ROUNDS = int(os.environ.get("RACE_ROUNDS", "200"))
FIRST_SEED = int(os.environ.get("RACE_SEED", "1"))
#: Of one company: more make the daily runs of its later months long, because some cards never pay.
ROUNDS_OF_A_COMPANY = 60
LATE_ROUNDS_OF_A_COMPANY = 40
#: Two fifths of the rounds are of workers that were thought lost.
COMPANIES = -(-ROUNDS // (ROUNDS_OF_A_COMPANY + LATE_ROUNDS_OF_A_COMPANY))
SEEDS = range(FIRST_SEED, FIRST_SEED + COMPANIES)


@pytest.mark.parametrize("seed", SEEDS)
def test_concurrent_actors_take_the_money_once(open_track: OpenTrack, seed: int) -> None:
    track = open_track(seed)
    raced = track.race(plan_rounds(seed, min(ROUNDS, ROUNDS_OF_A_COMPANY), PROCESSES))
    breaks = breaks_of(track, raced)
    assert not breaks, "\n".join(breaks)


@pytest.mark.parametrize("seed", SEEDS)
def test_worker_resumed_after_its_lease_takes_no_second_money(open_track: OpenTrack, seed: int) -> None:
    track = open_track(seed)
    raced = track.race(plan_late_rounds(seed, min(ROUNDS, LATE_ROUNDS_OF_A_COMPANY), PROCESSES))
    breaks = breaks_of(track, raced)
    assert not breaks, "\n".join(breaks)


def test_rounds_cover_every_pair_and_situation() -> None:
    """Each pair of comers meets, and each situation comes up, in one company; the seed decides all else."""
    rounds = plan_rounds(FIRST_SEED, ROUNDS_OF_A_COMPANY, PROCESSES)
    met = {frozenset(role for role in one.roles if role is not None) for one in rounds}
    assert all(frozenset(pair) in met for pair in PAIRS)
    assert {one.situation for one in rounds} == set(Situation)
    assert rounds == plan_rounds(FIRST_SEED, ROUNDS_OF_A_COMPANY, PROCESSES)
    late = plan_late_rounds(FIRST_SEED, LATE_ROUNDS_OF_A_COMPANY, PROCESSES)
    assert {one.situation for one in late} == LOST
    assert all({Role.LATE_WORKER, Role.SETTLEMENT} <= set(one.roles) for one in late)
