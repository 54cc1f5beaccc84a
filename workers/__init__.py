"""The workers: Dramatiq actors that claim rows and do what is due. `actors.py` is the whole list."""
