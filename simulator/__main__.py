"""`python -m simulator`: run the simulator as a process."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from shared.logs import configure_logs
from simulator.api.app import build_simulator, server_config
from simulator.business_time import clock_from_settings
from simulator.settings import SettingsError, settings_from_environment
from simulator.store.store import StoreInUse


class AnnouncingServer(uvicorn.Server):
    """Prints its URL on one line for a parent process, once it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            typer.echo(f"simulator ready on http://{host}:{port}")


def main(
    port: Annotated[int | None, typer.Option(help="0: a free port. Default: SIMULATOR_PORT or 0.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: SIMULATOR_HOST or 127.0.0.1.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the durable state.")] = None,
    confirmation_limit: Annotated[int | None, typer.Option(help="Declines before a PaymentIntent cancels.")] = None,
) -> None:
    """Run a card processor with Stripe's API, for demo, tests and chaos."""
    configure_logs("simulator")
    try:
        settings = settings_from_environment()
        settings = replace(
            settings,
            port=settings.port if port is None else port,
            host=host or settings.host,
            data=data or settings.data,
            confirmation_limit=confirmation_limit or settings.confirmation_limit,
        )
        simulator = build_simulator(settings, clock_from_settings(settings.clock, settings.database_url))
    except (SettingsError, StoreInUse, ValueError) as error:
        typer.echo(f"simulator: {error}", err=True)
        raise typer.Exit(2) from None
    try:
        AnnouncingServer(server_config(simulator.app, settings.host, settings.port)).run()
    finally:
        simulator.close()


if __name__ == "__main__":
    typer.run(main)
