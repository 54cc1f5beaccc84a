"""Verification checks every invariant in SQL over all rows, and against the processor's records.

`verify(engine, scope, …)` runs the table of checks and returns a Report. It changes nothing.
"""

from shared.reconciliation.verify.check import Break, Check, Result
from shared.reconciliation.verify.run import CHECKS, Report, verify
from shared.reconciliation.verify.scope import Scope

__all__ = ["CHECKS", "Break", "Check", "Report", "Result", "Scope", "verify"]
