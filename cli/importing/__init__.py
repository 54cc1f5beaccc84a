"""Import accounts, services and fees from CSV. A file is imported as a whole or not at all.

Read in this order: `source.py` (bytes to records), `cells.py` (types of cells), `kind.py` (what a kind of file is),
`layout.py` (which column of the file is which of ours), `rows.py` (validating one row), `staging.py` (temporary
tables), then `accounts.py`, `services.py` and `fees.py` (the model of a row and the SQL that compares it with the
database), `importer.py` (the steps of an import), `rejects.py` and `report.py` (output).

A file is never held in memory: rows are read, validated and copied into temporary tables in batches. The
comparison with the database and every write are set-based and happen in one transaction.
"""
