"""`python -m cli` is `duecourse`, for processes that have no console script on their path."""

from cli.main import app

app()
