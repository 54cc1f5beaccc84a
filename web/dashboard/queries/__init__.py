"""What the overview shows, as numbers: SQL in, dataclasses out. Nothing here knows of pages or plots.

`money.py` a month's money and how declines were won back, `attempts.py` attempts by hour, day and code, `lanes.py`
what waits and what is under way, `progress.py` the monthly runs, `troubles.py` what somebody must look at now, and
`overview.py` gathers what may be some seconds old. Everything is summed by PostgreSQL; we only see groups.
"""
