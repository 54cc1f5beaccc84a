"""Every page by axe-core's rules, light and dark: nothing serious, nothing critical."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import Office
from tests.browser.gallery import places
from web.dashboard.request_context import ROOT

GRAVE = {"serious", "critical"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_violation(office: Office, scheme: str) -> None:
    page = office.sit_down("ada", "admin", color_scheme=scheme)
    axe, found = Axe(), {}
    for name, path in {**places(office), "nobody's page": "/nothing-here-at-all"}.items():
        page.goto(f"{ROOT}{path}")
        violations = axe.run(page).response["violations"]
        grave = [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in violations
            if violation["impact"] in GRAVE
            for node in violation["nodes"][:3]
        ]
        if grave:
            found[name] = grave
    assert found == {}


def test_the_way_in_is_accessible_too(empty_office: Office) -> None:
    for scheme in ("light", "dark"):
        page = empty_office.open(color_scheme=scheme)
        page.goto(f"{ROOT}/sign-in")
        assert [v["id"] for v in Axe().run(page).response["violations"] if v["impact"] in GRAVE] == []


def test_an_empty_company_has_pages_that_say_so(empty_office: Office) -> None:
    page = empty_office.sit_down("ada", "admin")
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
