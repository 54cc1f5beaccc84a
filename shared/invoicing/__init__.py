"""Month start in set-based SQL: what is to be billed, how a chunk of it is issued, and what it would be.

Read in this order: `month.py` (one coverage's month as parameters), `bills.py` (what is to be billed: shared by the
preview and the real run), `chunk.py` (issues one chunk of accounts), `runs.py` (run rows), `preview.py`.
"""
