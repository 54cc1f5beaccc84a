"""The monthly invoicing run in set-based SQL: what to bill, how to issue one chunk, and the preview.

Read in this order: `month.py` (one coverage's month as parameters), `bills.py` (what is to be billed: shared by the
preview and the real run), `chunk.py` (issues one chunk of accounts), `runs.py` (run rows), `preview.py`.
"""
