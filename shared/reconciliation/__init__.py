"""Reconciliation compares the processor's charges and PaymentIntents with our records, page by page.

It fixes a difference, cancels an orphan, or writes a finding for an operator. Read in this order: `window.py`
(which period), `classify.py` (what a charge means, pure), `load.py` (our records), `repair.py` (fix, cancel, hold),
the phases (`charges.py`, `paid.py`, `unpaid.py`, `intents.py`), and `runner.py`, which runs the phases and saves
the progress.
"""
