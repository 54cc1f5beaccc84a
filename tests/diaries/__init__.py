"""Scenarios of whole months, day by day, on real components, with clocks that a test moves."""
