"""Queues: messages waiting and in flight, dead letters, and pauses."""
