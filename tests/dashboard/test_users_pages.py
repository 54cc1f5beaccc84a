"""Users: admins add, change and lock users and reset passwords; each user changes the own profile."""

import pytest
from sqlalchemy import select, text

from shared.db.tables.operators import audit_log
from shared.operations.passwords import is_password
from shared.operations.users import find_user
from tests.dashboard.conftest import PASSWORD, Browser, Dashboard

OTHER = "another good password"


def audit_entries(dashboard: Dashboard) -> list[tuple[str, str, str | None, str | None]]:
    """Actor, action, subject and reason of each audit log entry."""
    with dashboard.world.engine.connect() as connection:
        rows = connection.execute(select(audit_log).order_by(audit_log.c.id))
        return [(row.actor, row.action, row.subject, row.reason) for row in rows]


def sign_in(dashboard: Dashboard, name: str, password: str) -> Browser | None:
    browser = dashboard.anonymous()
    browser.post("/sign-in", "/sign-in", name=name, password=password)
    return browser if browser.client.get("/dashboard/profile").status_code == 200 else None


def id_of(dashboard: Dashboard, name: str) -> str:
    with dashboard.world.engine.connect() as connection:
        return str(connection.scalar(text("SELECT id FROM users WHERE name = :name"), {"name": name}))


def test_added_user_signs_in_with_the_rights_of_the_role(dashboard: Dashboard) -> None:
    ada = dashboard.as_("admin")
    answer = ada.post("/users/add", "/users", name="vic", role="viewer", password=OTHER, reason="new here")
    assert "vic was added." in answer.text
    vic = sign_in(dashboard, "vic", OTHER)
    assert vic is not None
    assert vic.get("/payments").status_code == 200
    assert vic.get("/users").status_code == 403
    assert ("operator:ada", "person.add", "vic", "new here") in audit_entries(dashboard)
    assert all(OTHER not in str(line) for line in audit_entries(dashboard))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "<b>", "password": OTHER}, "name"),
        ({"name": "ada", "password": OTHER}, "already"),
        ({"name": "new", "password": "short"}, "12"),
    ],
    ids=["name", "taken", "password"],
)
def test_invalid_new_user_is_explained(dashboard: Dashboard, fields: dict[str, str], why: str) -> None:
    ada = dashboard.as_("admin")
    answer = ada.post("/users/add", "/users", role="viewer", reason="new here", **fields)
    assert answer.status_code == 400
    assert why in answer.text
    with dashboard.world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM users")) == 1
    assert audit_entries(dashboard) == []


def test_changed_role_applies_at_once(dashboard: Dashboard) -> None:
    ada, vera = dashboard.as_("admin"), dashboard.as_("viewer")
    assert vera.get("/bulk/new?action=charge").status_code == 403
    here = f"/users/{id_of(dashboard, 'vera')}/role"
    assert "vera now has the role operator." in ada.post(here, "/users", role="operator", reason="on call").text
    assert vera.get("/bulk/new?action=charge").status_code == 200
    assert audit_entries(dashboard) == [("operator:ada", "person.role", "vera", "on call")]


def test_locked_user_is_signed_out_at_once_and_can_be_unlocked(dashboard: Dashboard) -> None:
    dashboard.add_user("otto")
    ada, otto = dashboard.as_("admin"), sign_in(dashboard, "otto", PASSWORD)
    assert otto is not None
    here = f"/users/{id_of(dashboard, 'otto')}/lock"
    ada.post(here, "/users", lock="yes", reason="left us")
    assert otto.client.get("/dashboard/profile").status_code == 303
    assert sign_in(dashboard, "otto", PASSWORD) is None
    ada.post(here, "/users", lock="no", reason="came back")
    assert sign_in(dashboard, "otto", PASSWORD) is not None
    assert [line for line in audit_entries(dashboard) if line[1].startswith("person.")] == [
        ("operator:ada", "person.lock", "otto", "left us"),
        ("operator:ada", "person.unlock", "otto", "came back"),
    ]


def test_reset_password_ends_the_old_one_and_its_sessions(dashboard: Dashboard) -> None:
    dashboard.add_user("otto")
    ada, otto = dashboard.as_("admin"), sign_in(dashboard, "otto", PASSWORD)
    assert otto is not None
    ada.post(f"/users/{id_of(dashboard, 'otto')}/password", "/users", password=OTHER, reason="forgotten")
    assert otto.client.get("/dashboard/profile").status_code == 303
    assert sign_in(dashboard, "otto", PASSWORD) is None
    assert sign_in(dashboard, "otto", OTHER) is not None


@pytest.mark.parametrize("what", [{"to": "role", "role": "viewer"}, {"to": "lock", "lock": "yes"}], ids=str)
def test_last_admin_cannot_be_demoted_or_locked(dashboard: Dashboard, what: dict[str, str]) -> None:
    ada = dashboard.as_("admin")
    fields = {"reason": "enough", **what}
    answer = ada.post(f"/users/{id_of(dashboard, 'ada')}/{fields.pop('to')}", "/users", **fields)
    assert answer.status_code == 400
    assert "ada is the only admin" in answer.text
    assert ada.get("/users").status_code == 200


def test_changing_ones_own_password_needs_the_current_one(dashboard: Dashboard) -> None:
    dashboard.add_user("otto")
    otto = sign_in(dashboard, "otto", PASSWORD)
    assert otto is not None
    wrong = otto.post("/profile/password", "/profile", present="something else", new=OTHER, again=OTHER)
    assert "The current password is wrong." in wrong.text
    differs = otto.post("/profile/password", "/profile", present=PASSWORD, new=OTHER, again=f"{OTHER}!")
    assert "don&#39;t match" in differs.text
    otto.post("/profile/password", "/profile", present=PASSWORD, new=OTHER, again=OTHER)
    with dashboard.world.engine.connect() as connection:
        row = find_user(connection, "otto")
    assert row is not None
    assert is_password(OTHER, row.password_hash)
    assert otto.client.get("/dashboard/profile").status_code == 303, "every session ended, including this one"


def test_guessing_the_current_password_is_slowed_like_sign_in(dashboard: Dashboard) -> None:
    dashboard.add_user("otto")
    otto = sign_in(dashboard, "otto", PASSWORD)
    assert otto is not None

    def change(present: str) -> int:
        return otto.post("/profile/password", "/profile", present=present, new=OTHER, again=OTHER).status_code

    assert [change(f"guess number {number}") for number in range(5)] == [400] * 5
    assert change(PASSWORD) == 429, "even with the right password"
    with dashboard.world.engine.connect() as connection:
        row = find_user(connection, "otto")
        refused = connection.execute(
            text("SELECT count(*) FROM audit_log WHERE action = 'person.password' AND outcome = 'refused'")
        ).scalar_one()
    assert row is not None
    assert is_password(PASSWORD, row.password_hash)
    assert refused == 5
    dashboard.world.machine.advance(minutes=15, seconds=1)
    assert change(PASSWORD) == 200
    with dashboard.world.engine.connect() as connection:
        row = find_user(connection, "otto")
    assert row is not None
    assert is_password(OTHER, row.password_hash)


def test_sign_out_everywhere_ends_only_ones_own_sessions(dashboard: Dashboard) -> None:
    here, there, vera = dashboard.as_("operator"), dashboard.as_("operator"), dashboard.as_("viewer")
    here.post("/profile/sign-out-everywhere", "/profile")
    assert here.client.get("/dashboard/profile").status_code == 303
    assert there.client.get("/dashboard/profile").status_code == 303
    assert vera.client.get("/dashboard/profile").status_code == 200


def test_user_chooses_the_time_zone(dashboard: Dashboard) -> None:
    vera = dashboard.as_("viewer")
    vera.post("/profile/zone", "/profile", zone="Asia/Tokyo")
    assert "Asia/Tokyo" in vera.get("/profile").text
    answer = vera.post("/profile/zone", "/profile", zone="Mars/Olympus")
    assert answer.status_code == 400
    assert "is not a time zone" in answer.text
