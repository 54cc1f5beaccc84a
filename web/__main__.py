"""`python -m web`: the web process, on DUECOURSE_WEB_HOST and PORT."""

import uvicorn

from shared.settings import SettingsError, load_settings


def main() -> None:
    try:
        settings = load_settings()
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    uvicorn.run(
        "web.app:make_app",
        factory=True,
        host=settings.web_host,
        port=settings.web_port,
        access_log=False,
        log_config=None,  # ours: secrets are cut out
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
