"""Creates runs when they are due, and enqueues all due work. Any number may run; one leads."""
