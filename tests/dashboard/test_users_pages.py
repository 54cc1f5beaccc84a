"""Who may sign in: admins add, change, lock and give passwords; everybody changes what is their own."""

import pytest
from sqlalchemy import select, text

from shared.db.tables.operators import audit_log
from shared.operations.passwords import is_password
from shared.operations.users import find_user
from tests.dashboard.conftest import PASSWORD, Browser, Dashboard

OTHER = "another good password"


def book(dashboard: Dashboard) -> list[tuple[str, str, str | None, str | None]]:
    """Who did what, to whom, and why."""
    with dashboard.world.engine.connect() as connection:
        rows = connection.execute(select(audit_log).order_by(audit_log.c.id))
        return [(row.actor, row.action, row.subject, row.reason) for row in rows]


def signs_in(dashboard: Dashboard, name: str, password: str) -> Browser | None:
    browser = dashboard.nobody()
    browser.post("/sign-in", "/sign-in", name=name, password=password)
    return browser if browser.client.get("/dashboard/profile").status_code == 200 else None


def id_of(dashboard: Dashboard, name: str) -> str:
    with dashboard.world.engine.connect() as connection:
        return str(connection.scalar(text("SELECT id FROM users WHERE name = :name"), {"name": name}))


def test_somebody_is_added_signs_in_and_may_what_their_role_may(dashboard: Dashboard) -> None:
    ada = dashboard.as_("admin")
    answer = ada.post("/users/add", "/users", name="vic", role="viewer", password=OTHER, reason="new here")
    assert "vic was added." in answer.text
    vic = signs_in(dashboard, "vic", OTHER)
    assert vic is not None
    assert vic.get("/payments").status_code == 200
    assert vic.get("/users").status_code == 403
    assert ("operator:ada", "person.add", "vic", "new here") in book(dashboard)
    assert all(OTHER not in str(line) for line in book(dashboard))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "<b>", "password": OTHER}, "name"),
        ({"name": "ada", "password": OTHER}, "already"),
        ({"name": "new", "password": "short"}, "12"),
    ],
    ids=["name", "taken", "password"],
)
def test_who_cannot_be_added_is_explained(dashboard: Dashboard, fields: dict[str, str], why: str) -> None:
    ada = dashboard.as_("admin")
    answer = ada.post("/users/add", "/users", role="viewer", reason="new here", **fields)
    assert answer.status_code == 400
    assert why in answer.text
    with dashboard.world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM users")) == 1
    assert book(dashboard) == []


def test_a_role_is_changed_and_counts_at_once(dashboard: Dashboard) -> None:
    ada, vera = dashboard.as_("admin"), dashboard.as_("viewer")
    assert vera.get("/bulk/new?action=charge").status_code == 403
    here = f"/users/{id_of(dashboard, 'vera')}/role"
    assert "vera now has the role operator." in ada.post(here, "/users", role="operator", reason="on call").text
    assert vera.get("/bulk/new?action=charge").status_code == 200
    assert book(dashboard) == [("operator:ada", "person.role", "vera", "on call")]


def test_who_is_locked_out_is_out_at_once_and_may_come_back(dashboard: Dashboard) -> None:
    dashboard.add_user("otto")
    ada, otto = dashboard.as_("admin"), signs_in(dashboard, "otto", PASSWORD)
    assert otto is not None
    here = f"/users/{id_of(dashboard, 'otto')}/lock"
    ada.post(here, "/users", lock="yes", reason="left us")
    assert otto.client.get("/dashboard/profile").status_code == 303
    assert signs_in(dashboard, "otto", PASSWORD) is None
    ada.post(here, "/users", lock="no", reason="came back")
    assert signs_in(dashboard, "otto", PASSWORD) is not None
    assert [line for line in book(dashboard) if line[1].startswith("person.")] == [
        ("operator:ada", "person.lock", "otto", "left us"),
        ("operator:ada", "person.unlock", "otto", "came back"),
    ]


def test_a_given_password_ends_the_old_one_and_its_sessions(dashboard: Dashboard) -> None:
    dashboard.add_user("otto")
    ada, otto = dashboard.as_("admin"), signs_in(dashboard, "otto", PASSWORD)
    assert otto is not None
    ada.post(f"/users/{id_of(dashboard, 'otto')}/password", "/users", password=OTHER, reason="forgotten")
    assert otto.client.get("/dashboard/profile").status_code == 303
    assert signs_in(dashboard, "otto", PASSWORD) is None
    assert signs_in(dashboard, "otto", OTHER) is not None


@pytest.mark.parametrize("what", [{"to": "role", "role": "viewer"}, {"to": "lock", "lock": "yes"}], ids=str)
def test_the_only_admin_stays_one(dashboard: Dashboard, what: dict[str, str]) -> None:
    ada = dashboard.as_("admin")
    fields = {"reason": "enough", **what}
    answer = ada.post(f"/users/{id_of(dashboard, 'ada')}/{fields.pop('to')}", "/users", **fields)
    assert answer.status_code == 400
    assert "ada is the only admin" in answer.text
    assert ada.get("/users").status_code == 200


def test_ones_own_password_is_changed_after_the_present_one(dashboard: Dashboard) -> None:
    dashboard.add_user("otto")
    otto = signs_in(dashboard, "otto", PASSWORD)
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
    assert otto.client.get("/dashboard/profile").status_code == 303, "every session ended, this one too"


def test_signing_out_everywhere_ends_all_sessions_and_only_ones_own(dashboard: Dashboard) -> None:
    here, there, vera = dashboard.as_("operator"), dashboard.as_("operator"), dashboard.as_("viewer")
    here.post("/profile/sign-out-everywhere", "/profile")
    assert here.client.get("/dashboard/profile").status_code == 303
    assert there.client.get("/dashboard/profile").status_code == 303
    assert vera.client.get("/dashboard/profile").status_code == 200


def test_times_are_read_in_the_zone_that_one_chose(dashboard: Dashboard) -> None:
    vera = dashboard.as_("viewer")
    vera.post("/profile/zone", "/profile", zone="Asia/Tokyo")
    assert "Asia/Tokyo" in vera.get("/profile").text
    answer = vera.post("/profile/zone", "/profile", zone="Mars/Olympus")
    assert answer.status_code == 400
    assert "is not a time zone" in answer.text
