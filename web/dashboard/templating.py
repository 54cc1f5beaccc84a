"""The template environment: all values are escaped, and an undefined name is an error."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shared.domain.calendar import waits_for_operator
from web.dashboard import formatting
from web.dashboard.request_context import ROOT
from web.dashboard.static import asset

FOLDER = Path(__file__).parent / "templates"


def make_templates() -> Environment:
    """Build the environment of all pages."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,  # all of them, whatever their names end in
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(root=ROOT, asset=asset)
    environment.tests["waiting_for_operator"] = waits_for_operator
    environment.filters.update(
        money=formatting.money,
        count=formatting.count,
        words=formatting.words,
        tone=formatting.tone,
        instant=formatting.instant,
        day=formatting.day,
        span=formatting.span,
        masked=formatting.masked_email,
    )
    return environment
