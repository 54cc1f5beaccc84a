"""`python -m web`: the web process, on DUECOURSE_WEB_HOST and PORT, or on a listening socket that it inherits."""

import os
import signal
import socket

import uvicorn

from shared.settings import SettingsError, load_settings


def main() -> None:
    try:
        settings = load_settings()
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    config = uvicorn.Config(
        "web.app:make_app",
        factory=True,
        host=settings.web_host,
        port=settings.web_port,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who may speak for others is our own setting: DUECOURSE_TRUSTED_PROXIES
        log_config=None,  # ours: secrets are cut out
        timeout_graceful_shutdown=10,
    )
    # uvicorn raises the signal once more when all is answered and closed; we ended as told, which is exit code 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    inherited = os.environ.get("DUECOURSE_WEB_FD")
    sockets = [socket.socket(fileno=int(inherited))] if inherited else None
    uvicorn.Server(config).run(sockets)


if __name__ == "__main__":
    main()
