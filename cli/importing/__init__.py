"""Files in: accounts, services and fees from CSV, whole or not at all.

Read in this order: `source.py` (bytes to records), `cells.py` (one cell), `layout.py` (which column is which),
`rows.py` (one row), `staging.py` (temporary tables), then `accounts.py`, `services.py` and `fees.py` (what each
file holds and how it is compared with the database), `importer.py` (the order of it all), `rejects.py` and
`report.py` (what people see).

A file is never held in memory: rows are read, checked and copied into temporary tables in batches. The
comparison with the database and every write are set-based and happen in one transaction.
"""
