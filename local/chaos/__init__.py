"""`duecourse chaos`: the whole company as processes, under fire, and then the accounts."""
