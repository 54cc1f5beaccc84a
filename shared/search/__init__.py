"""Looking for payments and accounts: what people ask for, as data and as queries. Knows nothing of the web."""
