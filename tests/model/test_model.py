"""The model: in any order of events, every payment is captured at most once, and in the end once."""

import time

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.company import Company
from tests.model.machine import Model


def test_each_payment_is_captured_once_in_any_order_of_events(
    company: Company, profile: settings, capsys: pytest.CaptureFixture[str]
) -> None:
    Model.company = company
    first, began, cpu_began = company.example, time.monotonic(), time.process_time()
    try:
        run_state_machine_as_test(Model, settings=profile)
    finally:
        examples, seconds = company.example - first, time.monotonic() - began
        cpu_s = time.process_time() - cpu_began
        with capsys.disabled():
            print(f"\n{', '.join(f'{what} {times}' for what, times in sorted(Model.met.items()))}")
            print(
                f"{examples} examples in {seconds:.0f} s, {examples / seconds:.2f} a second, {cpu_s:.0f} s of CPU"
            )
