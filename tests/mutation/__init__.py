"""Mutation testing of code that needs a database: mutmut, with servers and a migrated template made once outside.

    python -m tests.mutation                                # shared/payments and the daily run (hours)
    python -m tests.mutation shared/payments/claim.py       # one module

mutmut forks a child for each mutant, after it has imported everything. A child starts no servers and migrates
nothing: DATABASE_URL and REDIS_URL name running ones, and `tests.mutation.plugin` takes the template that is there.
Each test still has a database of its own, so the children don't meet. Selections hold no test that needs Redis: it
has one database for all.
"""
