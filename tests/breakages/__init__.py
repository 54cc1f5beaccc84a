"""Guards removed on purpose: each guard is removed at import or in the database, and named tests must go red.

    python -m tests.breakages --list
    python -m tests.breakages                      # all of them, some ten minutes
    python -m tests.breakages payment-not-locked no-sigterm-debounce

Small code mutations (a condition dropped, an operator changed) are left to mutation testing, `make mutants`. Here
is what it cannot express: phases swapped, locks and indexes gone, another clock, an entry of a table removed.
Nothing quotes source lines: a seam names a public attribute, and `test_breakages.py` fails once one is gone.
"""
