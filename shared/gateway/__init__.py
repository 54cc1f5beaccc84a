"""The way to the card processor: a port, its Stripe adapter, and the table that reads its answers."""
