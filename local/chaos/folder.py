"""The folder of one run: servers and data run_two_months in it, and its logs outlive it if something goes wrong."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from local import embedded


@contextmanager
def run_folder(out: Path) -> Iterator[Path]:
    """Make a fresh folder and remove it afterwards. If the block raises, copy the logs into `out` first."""

    folder = Path(tempfile.mkdtemp(prefix="duecourse-chaos-"))
    folder.chmod(0o755)  # as root the servers run as another user, who must enter
    started = time.time()
    try:
        yield folder
    except BaseException:
        keep_logs(folder, out)
        raise
    finally:
        embedded.erase(folder)
        shutil.rmtree(folder, ignore_errors=True)
        typer.echo(f"{time.time() - started:.0f} s in total", err=True)


def keep_logs(folder: Path, out: Path) -> None:
    """Copy the logs of all processes beside the report."""
    shutil.copytree(folder / "logs", out / "logs", dirs_exist_ok=True)
