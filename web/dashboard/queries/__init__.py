"""What the pages show, as data: SQL in, dataclasses and rows out. Nothing here knows of pages or plots.

`alerts.py` holds what is never cached; `overview.py` gathers the metrics that may be some seconds old from
`money_metrics.py`, `attempt_metrics.py`, `queue_metrics.py` and `run_progress.py`. PostgreSQL does the summing.
"""
