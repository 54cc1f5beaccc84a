"""Break it on purpose: every promise's guard is taken away, one at a time, and a test must notice.

    python -m tests.breakages --list
    python -m tests.breakages                      # all of them: some minutes
    python -m tests.breakages confirm-before-the-id-is-committed sweep-off

Each breakage is data: what is broken, which invariant of the design it violates, the edit, and the tests that catch
it. The run works in a copy of the checkout and never touches the checkout itself.
"""
