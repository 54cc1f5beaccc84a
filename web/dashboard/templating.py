"""The templates: everything that is written into a page is escaped, and a name that isn't there is an error."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shared.domain.calendar import waits_for_operator
from web.dashboard import formatting as words
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
        money=words.money,
        count=words.count,
        words=words.words,
        tone=words.tone,
        instant=words.instant,
        day=words.day,
        span=words.span,
        masked=words.masked_email,
    )
    return environment
