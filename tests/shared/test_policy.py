"""billing.toml: what is refused, and the words in which a user reads it."""

import re
from datetime import time
from pathlib import Path

import pytest

from shared.domain.charge_limits import MAXIMUM_CHARGE_MINOR, minimum_charge_minor
from shared.domain.money import EXPONENTS, format_minor
from shared.policy import PolicyError, load_policy

SHIPPED = Path(__file__).parents[2] / "billing.toml"
CLOCK = 'a time of day in quotes, "00:00" to "23:59", in the coverage\'s time zone'
ZONE = 'a time zone of the IANA database such as "Asia/Tokyo", or "UTC"'
AMOUNT = 'an amount of the coverage\'s currency in quotes, such as "0.50"'
DOLLARS = "USD 0.50 to USD 999,999.99 with at most 2 decimals: Stripe charges no other amounts"
YEN = "JPY 50 to JPY 99,999,999 with no decimals: Stripe charges no other amounts"
CURRENCY = "one of the supported currencies: AED, AUD, "
PREFIX = "1 to 8 capital letters A to Z and digits, in quotes"
CODE = "a name of 1 to 32 small letters a to z, digits and _, which begins with a letter"
DECLINES = "a whole number of declines from 1 to 365"
DAYS = "a whole number of days from 1 to 365"
DAYS_OR_NONE = "a whole number of days from 0 to 365"
MONTH = "a whole number of days from 0 to 31"
UNKNOWN, TWICE = "is refused: unknown key", "the same key or table is given twice; allowed is once"
UNREADABLE = 'can\'t be read; allowed are [table], key = "text" and key = number'
BOM = "begins with a byte order mark (BOM); save it as UTF-8 without BOM"
KEYS = (
    "; allowed are retry_at, retry_every_days, slower, mark_after_declines, mark_after_days_past_due, "
    "stop_after_declines"
)

#: What belongs to libraries and to Python, not into a sentence for a user.
JARGON = re.compile(r"pydantic|Traceback|validation|valid (string|integer|dict)|Extra inputs|at line|None")


def load(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "billing.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    load_policy(file)


def shipped_with(key: str, value: str) -> str:
    """The shipped file with another value for the first `key = …`, in a table or within braces."""
    value_of_key = r"(\{[^}]*\}|\"[^\"]*\"|[^ ,}\n]+)"
    text, count = re.subn(
        rf"(?m)(^(?:# )?|[{{,] *){key} = {value_of_key}",
        lambda m: f"{m[1].removeprefix('# ')}{key} = {value}",
        SHIPPED.read_text(),
        count=1,
    )
    assert count == 1, key
    return text


BAD_VALUES = [
    # Times of day: strings "HH:MM" without a zone.
    ("retry_at", "9", "dunning.retry_at = 9", CLOCK),
    ("retry_at", "900", "dunning.retry_at = 900", CLOCK),
    ("retry_at", "0", "dunning.retry_at = 0", CLOCK),
    ("retry_at", "9.5", "dunning.retry_at = 9.5", CLOCK),
    ("retry_at", "true", "dunning.retry_at = true", CLOCK),
    ("retry_at", '"09:00Z"', 'dunning.retry_at = "09:00Z"', CLOCK),
    ("retry_at", '"09:00+09:00"', 'dunning.retry_at = "09:00+09:00"', CLOCK),
    ("retry_at", '"9:00"', 'dunning.retry_at = "9:00"', CLOCK),
    ("retry_at", '"09:00:00"', 'dunning.retry_at = "09:00:00"', CLOCK),
    ("retry_at", '"24:00"', 'dunning.retry_at = "24:00"', CLOCK),
    ("retry_at", '"09:60"', 'dunning.retry_at = "09:60"', CLOCK),
    ("retry_at", '"09:00\\n"', 'dunning.retry_at = "09:00\\n"', CLOCK),
    ("retry_at", '"٠٩:٠٠"', 'dunning.retry_at = "٠٩:٠٠"', CLOCK),
    ("retry_at", '"nine"', 'dunning.retry_at = "nine"', CLOCK),
    ("retry_at", '""', 'dunning.retry_at = ""', CLOCK),
    ("retry_at", "09:00:00", "dunning.retry_at = 09:00:00", CLOCK),
    ("retry_at", "09:00", "line 8, retry_at = 09:00", CLOCK),
    ("retry_at", '"09:00', 'line 8, retry_at = "09:00', CLOCK),
    ("at", "4", "reconciliation.at = 4", CLOCK),
    ("at", '"04:00Z"', 'reconciliation.at = "04:00Z"', CLOCK),
    ("at", "2026-11-01T04:00:00Z", "reconciliation.at = 2026-11-01 04:00:00+00:00", CLOCK),
    # Numbers: whole, within bounds, not as text.
    ("mark_after_declines", "true", "dunning.mark_after_declines = true", DECLINES),
    ("mark_after_declines", '"7"', 'dunning.mark_after_declines = "7"', DECLINES),
    ("mark_after_declines", "7.0", "dunning.mark_after_declines = 7.0", DECLINES),
    ("mark_after_declines", "0", "dunning.mark_after_declines = 0", DECLINES),
    ("mark_after_declines", "-1", "dunning.mark_after_declines = -1", DECLINES),
    ("mark_after_declines", "[7]", "dunning.mark_after_declines = [7]", DECLINES),
    ("mark_after_declines", "nan", "dunning.mark_after_declines = nan", DECLINES),
    ("mark_after_declines", "07", "line 12, mark_after_declines = 07", DECLINES),
    ("mark_after_declines", "", "line 12, mark_after_declines =", DECLINES),
    (
        "mark_after_declines",
        "31",
        "dunning.mark_after_declines = 31",
        "at most stop_after_declines, which is 30: after it nothing is declined any more",
    ),
    ("stop_after_declines", "0", "dunning.stop_after_declines = 0", DECLINES),
    ("stop_after_declines", "366", "dunning.stop_after_declines = 366", DECLINES),
    ("mark_after_days_past_due", "0", "dunning.mark_after_days_past_due = 0", DAYS),
    ("mark_after_days_past_due", "inf", "dunning.mark_after_days_past_due = inf", DAYS),
    ("retry_soon", "0", "dunning.retry_every_days.retry_soon = 0", DAYS),
    ("retry_daily", "1.5", "dunning.retry_every_days.retry_daily = 1.5", DAYS),
    ("retry_sparingly", "366", "dunning.retry_every_days.retry_sparingly = 366", DAYS),
    ("card", "-1", "invoices.due_in_days.card = -1", DAYS_OR_NONE),
    ("bank_transfer", '"30"', 'invoices.due_in_days.bank_transfer = "30"', DAYS_OR_NONE),
    ("catch_up_within_days", "32", "invoices.catch_up_within_days = 32", MONTH),
    ("catch_up_within_days", "false", "invoices.catch_up_within_days = false", MONTH),
    # Tables.
    ("due_in_days", "30", "invoices.due_in_days = 30", "a table with the keys card, bank_transfer"),
    (
        "retry_every_days",
        "[1, 1, 3]",
        "dunning.retry_every_days = [1, 1, 3]",
        "a table with the keys retry_soon, retry_daily, retry_sparingly",
    ),
    ("slower", "3", "dunning.slower = 3", "a table with the keys after_declines, every_days"),
    ("slower", "{ after_declines = 0, every_days = 3 }", "dunning.slower.after_declines = 0", DECLINES),
    ("slower", "{ after_declines = 7, every_days = 0 }", "dunning.slower.every_days = 0", DAYS),
    # Coverages.
    ("time_zone", '"Asia"', 'coverages.global.time_zone = "Asia"', ZONE),
    ("time_zone", '"asia/tokyo"', 'coverages.global.time_zone = "asia/tokyo"', ZONE),
    ("time_zone", '"Asia/Tokio"', 'coverages.global.time_zone = "Asia/Tokio"', ZONE),
    ("time_zone", '"/etc/localtime"', 'coverages.global.time_zone = "/etc/localtime"', ZONE),
    ("time_zone", '"localtime"', 'coverages.global.time_zone = "localtime"', ZONE),
    ("time_zone", '"UTC+9"', 'coverages.global.time_zone = "UTC+9"', ZONE),
    ("time_zone", '""', 'coverages.global.time_zone = ""', ZONE),
    ("time_zone", "9", "coverages.global.time_zone = 9", ZONE),
    ("time_zone", f'"{"x" * 300}"', f'coverages.global.time_zone = "{"x" * 59}…', ZONE),
    ("currency", '"usd"', 'coverages.global.currency = "usd"', CURRENCY),
    ("currency", '"XXX"', 'coverages.global.currency = "XXX"', CURRENCY),
    ("invoice_prefix", '"g"', 'coverages.global.invoice_prefix = "g"', PREFIX),
    ("invoice_prefix", '"ABCDEFGHI"', 'coverages.global.invoice_prefix = "ABCDEFGHI"', PREFIX),
    (
        "invoice_prefix",
        '"J"',
        'coverages.japan.invoice_prefix = "J"',
        "another prefix than that of coverages.global: invoice numbers would collide",
    ),
    ("minimum_charge", "0.50", "coverages.global.minimum_charge = 0.5", AMOUNT),
    ("minimum_charge", '"-1"', 'coverages.global.minimum_charge = "-1"', AMOUNT),
    ("minimum_charge", '"0,50"', 'coverages.global.minimum_charge = "0,50"', AMOUNT),
    ("minimum_charge", '"USD 0.50"', 'coverages.global.minimum_charge = "USD 0.50"', AMOUNT),
    ("minimum_charge", '"0.49"', 'coverages.global.minimum_charge = "0.49"', DOLLARS),
    ("minimum_charge", '"0"', 'coverages.global.minimum_charge = "0"', DOLLARS),
    ("minimum_charge", '"0.505"', 'coverages.global.minimum_charge = "0.505"', DOLLARS),
    ("minimum_charge", '"1000000"', 'coverages.global.minimum_charge = "1000000"', DOLLARS),
]


@pytest.mark.parametrize(("key", "value", "refused", "allowed"), BAD_VALUES, ids=lambda part: str(part)[:24])
def test_refused_value_is_named_with_its_key_and_what_is_allowed(
    tmp_path: Path, key: str, value: str, refused: str, allowed: str
) -> None:
    with pytest.raises(PolicyError) as raised:
        load(tmp_path, shipped_with(key, value))
    heading, *problems = str(raised.value).splitlines()
    assert heading == f"{tmp_path}/billing.toml can't be used:"
    assert len(problems) == 1
    assert problems[0].startswith(f"  {refused} is refused; allowed is {allowed}")
    assert not JARGON.search(problems[0])


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "[dunning]",
            "[dunning]\nretry_att = 1",
            f"dunning.retry_att = 1 {UNKNOWN} (did you mean retry_at?){KEYS}",
        ),
        ("[dunning]", '[dunning]\n"a b" = {c = 1}', f'dunning."a b" = {{c = 1}} {UNKNOWN}{KEYS}'),
        ("[coverages.japan]", "[coverages.JP]", f"coverages.JP is refused as a name; allowed is {CODE}"),
        ("[coverages.japan]", '[coverages.""]', f'coverages."" is refused as a name; allowed is {CODE}'),
        ("[coverages.japan]", "[coverages.global]", f"line 25, [coverages.global]: {TWICE}"),
        ('prefix = "G"', 'prefix = "G"\ninvoice_prefix = "H"', f'line 23, invoice_prefix = "H": {TWICE}'),
        ("[dunning]", "[dunning", f"line 7, [dunning: {UNREADABLE}"),
        ("[dunning]", "dunning: 3", f"line 7, dunning: 3: {UNREADABLE}"),
        ('"50"', '"50.5"', f'coverages.japan.minimum_charge = "50.5" is refused; allowed is {YEN}'),
    ],
)
def test_other_mistake_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(PolicyError) as raised:
        load(tmp_path, SHIPPED.read_text().replace(old, new, 1))
    assert str(raised.value).splitlines()[1:] == [f"  {problem}"]


LINES = [line for line in SHIPPED.read_text().splitlines() if " = " in line and not line.startswith("#")]


@pytest.mark.parametrize("line", LINES)
def test_missing_key_is_an_error(tmp_path: Path, line: str) -> None:
    with pytest.raises(PolicyError) as raised:
        load(tmp_path, SHIPPED.read_text().replace(f"{line}\n", "", 1))
    name, problems = line.split(" = ")[0], str(raised.value).splitlines()[1:]
    assert problems
    for problem in problems:
        assert re.match(rf"  [a-z_.]*\b{name}\b[a-z_.]* is missing; allowed is .{{10}}", problem)


def test_missing_tables_name_every_key_they_lack(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as raised:
        load(tmp_path, "")
    assert [problem.split(";")[0].strip() for problem in str(raised.value).splitlines()[1:]] == [
        "invoices.due_in_days.card is missing",
        "invoices.due_in_days.bank_transfer is missing",
        "invoices.catch_up_within_days is missing",
        "dunning.retry_at is missing",
        "dunning.retry_every_days.retry_soon is missing",
        "dunning.retry_every_days.retry_daily is missing",
        "dunning.retry_every_days.retry_sparingly is missing",
        "dunning.mark_after_declines is missing",
        "dunning.mark_after_days_past_due is missing",
        "dunning.stop_after_declines is missing",
        "reconciliation.at is missing",
        "coverages is missing",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xef\xbb\xbf" + SHIPPED.read_bytes(), BOM),
        (SHIPPED.read_text().encode("utf-16"), BOM),
        (SHIPPED.read_bytes() + b'# f\xfcr\n', "line 30 is not UTF-8 text; save the file as UTF-8"),
        (SHIPPED.read_bytes() + b"x = [1,", "the file ends within a value or a table; close its quotes"),
    ],
    ids=["UTF-8 with BOM", "UTF-16", "Latin-1", "cut"],
)  # fmt: skip
def test_file_that_cannot_be_read_says_how_to_save_it(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(says)) as raised:
        load(tmp_path, content)
    assert not JARGON.search(str(raised.value))


def test_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="can't be read: Is a directory"):
        load_policy(tmp_path)


def test_shipped_file_lists_every_key_and_is_accepted() -> None:
    policy = load_policy(SHIPPED)
    assert policy.dunning.retry_at == time(9, 0)
    assert policy.reconcile_at == time(4, 0)


@pytest.mark.parametrize("currency", sorted(EXPONENTS))
def test_the_least_that_stripe_charges_is_accepted_in_each_currency(tmp_path: Path, currency: str) -> None:
    for amount_minor in (minimum_charge_minor(currency), MAXIMUM_CHARGE_MINOR):
        text = format_minor(amount_minor, currency).split()[1].replace(",", "")
        changed = shipped_with("currency", f'"{currency}"').replace('"0.50"', f'"{text}"', 1)
        load(tmp_path, changed)
