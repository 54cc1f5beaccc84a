"""Our books against the processor's, page by page: what differs is mended, canceled, or shown to a person.

Read in this order: `window.py` (which time), `judge.py` (what a charge means, pure), `gather.py` (what our books
say), `act.py` (mend, cancel), the four phases (`charges.py`, `paid.py`, `unpaid.py`, `intents.py`), and `walk.py`,
which walks through them and keeps how far it came.
"""
