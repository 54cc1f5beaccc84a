"""All breakages, in the order in which money passes through what they break."""

from tests.breakages.answers import ANSWERS
from tests.breakages.books import BOOKS
from tests.breakages.breakage import Breakage
from tests.breakages.cards import CARDS_AND_EVENTS
from tests.breakages.charging import CHARGING
from tests.breakages.database import DATABASE
from tests.breakages.decisions import DECISIONS
from tests.breakages.waking import WAKING

BREAKAGES: tuple[Breakage, ...] = (*CHARGING, *ANSWERS, *WAKING, *CARDS_AND_EVENTS, *DECISIONS, *BOOKS, *DATABASE)
