"""A worker that only invoices, to be killed: `python -m tests.invoicing.worker URL RUN CHUNK`."""

import sys
from uuid import UUID

from sqlalchemy import create_engine

from tests.invoicing.month_start import MonthStart

if __name__ == "__main__":
    url, run_id, accounts_per_chunk = sys.argv[1:]
    MonthStart(create_engine(url), accounts_per_chunk=int(accounts_per_chunk)).deliver(UUID(run_id))
