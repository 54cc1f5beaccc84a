"""Access to the card processor: a port, its Stripe adapter, and the table that classifies answers."""
