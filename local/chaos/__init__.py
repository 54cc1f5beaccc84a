"""`duecourse chaos`: a company of real processes, faults of every kind, and then a check of every charge."""
