"""`python -m cli` is `duecourse`, for processes without the console script on their path."""

from cli.main import app

app()
