"""The lanes as people see them: what waits and what is in flight, dead letters, and pauses."""
