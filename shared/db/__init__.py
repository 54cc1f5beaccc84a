"""Tables, sessions and the queries that more than one process needs."""
