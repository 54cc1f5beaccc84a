"""One module per kind of page: functions that take a request context and return a response."""
