"""`duecourse demo`: two months of a company's billing in under a minute, on real parts and virtual time."""
