"""`duecourse demo`: two months of a company's billing in under a minute, with real servers and virtual time."""
