"""Static files: a fixed list, read once, under names that change with their content.

A list and not a folder, so that no path in a URL can reach another file. Third-party files are checked against the
hash that was reviewed (THIRD_PARTY): a changed file is never served.
"""

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
TYPES = {
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
#: Third-party files as published: htmx 2.0.11 (Zero-Clause BSD), dist/htmx.min.js of its npm package.
THIRD_PARTY = {"htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"}
#: The name changes with the content, so a browser may keep it.
FOREVER = "public, max-age=31536000, immutable"


class ChangedFileError(Exception):
    """A third-party file isn't the one that was reviewed."""


@cache
def content(name: str) -> bytes:
    """Return a file of the list; ChangedFileError if its hash differs."""
    found = (FOLDER / name).read_bytes()
    expected = THIRD_PARTY.get(name)
    if expected is not None and hashlib.sha256(found).hexdigest() != expected:
        raise ChangedFileError(f"web/dashboard/static/{name} isn't the file that was reviewed; restore it")
    return found


@cache
def asset(name: str) -> str:
    """Return the URL of a file of the list."""
    return f"/dashboard/static/{hashlib.sha256(content(name)).hexdigest()[:16]}/{name}"


async def serve(request: Request) -> Response:
    """Serve a file of the list under its current URL; everything else is 404."""
    name = request.path_params["name"]
    if name not in TYPES or request.url.path != asset(name):
        return Response("File not found.\n", 404, media_type="text/plain")
    return Response(content(name), headers={"Cache-Control": FOREVER}, media_type=TYPES[name])
