"""Settings that are refused at the start."""

import pytest

from shared.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql://app@127.0.0.1/duecourse",
        "REDIS_URL": "redis://127.0.0.1/0",
        "DUECOURSE_CLOCK": "system",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "base",
    [
        "http://127.0.0.1:12111",
        "https://stripe.example",
        "https://api.stripe.com.evil.example",
        "https://api.stripe.com@evil.example",
        "https://user@api.stripe.com",
        "http://api.stripe.com",
        "https://api.stripe.com:8443",
    ],
)
@pytest.mark.parametrize("key", ["sk_live_1", "rk_live_1"])
def test_a_live_key_is_never_sent_to_another_host(monkeypatch: pytest.MonkeyPatch, base: str, key: str) -> None:
    monkeypatch.setenv("STRIPE_API_KEYS", f'{{"global": "sk_test_1", "japan": "{key}"}}')
    monkeypatch.setenv("STRIPE_API_BASE", base)
    with pytest.raises(SettingsError, match="another host than Stripe's") as refused:
        load_settings()
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "base"),
    [
        ("sk_live_1", "https://api.stripe.com"),
        ("sk_live_1", "https://api.stripe.com/"),
        ("sk_live_1", ""),
        ("sk_test_1", "http://127.0.0.1:12111"),
    ],
)
def test_stripes_own_host_and_test_keys_anywhere_are_accepted(
    monkeypatch: pytest.MonkeyPatch, key: str, base: str
) -> None:
    monkeypatch.setenv("STRIPE_API_KEYS", f'{{"global": "{key}"}}')
    monkeypatch.setenv("STRIPE_API_BASE", base)
    assert load_settings().has_live_key == (key == "sk_live_1")
