"""The audit: what the books promise, checked in SQL over all rows and against the processor's books.

`audit(engine, scope, …)` runs the table of checks and returns a Report. It changes nothing.
"""

from shared.audit.check import Break, Check, Result
from shared.audit.run import CHECKS, Report, audit
from shared.audit.scope import Scope

__all__ = ["CHECKS", "Break", "Check", "Report", "Result", "Scope", "audit"]
