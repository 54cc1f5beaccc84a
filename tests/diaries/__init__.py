"""Scenario diaries: whole months lived day by day, on real parts, with clocks that a test moves."""
