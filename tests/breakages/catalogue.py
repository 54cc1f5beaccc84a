"""All breakages."""

from tests.breakages.breakage import Breakage
from tests.breakages.database import DATABASE

BREAKAGES: tuple[Breakage, ...] = DATABASE
