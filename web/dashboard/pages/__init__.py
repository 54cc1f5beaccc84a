"""One module for each kind of page: functions of a visit that return a response."""
