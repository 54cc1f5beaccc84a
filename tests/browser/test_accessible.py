"""No page has a serious or critical axe-core violation, light or dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import Office
from tests.browser.gallery import page_paths
from web.dashboard.request_context import ROOT

REPORTED_IMPACTS = {"serious", "critical"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_violation(office: Office, scheme: str) -> None:
    page = office.sign_in("ada", "admin", color_scheme=scheme)
    axe, found = Axe(), {}
    for name, path in {**page_paths(office), "not found": "/nothing-here-at-all"}.items():
        page.goto(f"{ROOT}{path}")
        violations = axe.run(page).response["violations"]
        violations_of_page = [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in violations
            if violation["impact"] in REPORTED_IMPACTS
            for node in violation["nodes"][:3]
        ]
        if violations_of_page:
            found[name] = violations_of_page
    assert found == {}


def test_sign_in_page_is_accessible(empty_office: Office) -> None:
    for scheme in ("light", "dark"):
        page = empty_office.open(color_scheme=scheme)
        page.goto(f"{ROOT}/sign-in")
        assert [v["id"] for v in Axe().run(page).response["violations"] if v["impact"] in REPORTED_IMPACTS] == []


def test_pages_of_an_empty_company_render(empty_office: Office) -> None:
    page = empty_office.sign_in("ada", "admin")
    for path in (
        "",
        "/payments",
        "/accounts",
        "/bulk",
        "/findings",
        "/unknown",
        "/stripe-events",
        "/runs",
        "/audit-log",
    ):
        answer = page.goto(f"{ROOT}{path}")
        assert answer is not None
        assert answer.status == 200, path
        assert page.get_by_role("heading", level=1).count() == 1, path
