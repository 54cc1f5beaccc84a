"""Makes runs when their moment comes, and rings for whatever is due. Any number may run; one leads."""
