from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_pipeline.data.scrubbing import find_spans, iban_ok, luhn_ok, scrub_messages, scrub_text

# Made-up secrets, put together here so that no scanner takes them for real ones.
OPENAI = "sk-" + "proj-a1B2c3D4e5F6g7H8i9J0"
GITHUB = "ghp_" + "0a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
SLACK = "xoxb-" + "123456789012-abcdefABCDEF"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlX2hlcmU"

FOUND = [
    ("write to jane.doe+help@mail.example.co.uk, please", "email", "jane.doe+help@mail.example.co.uk"),
    ("<o'brien@example.com>", "email", "o'brien@example.com"),
    ("Mail:MAX@EXAMPLE.DE.", "email", "MAX@EXAMPLE.DE"),
    ("jürgen@müller.de", "email", "jürgen@müller.de"),
    (f"my key {OPENAI}.", "secret", OPENAI),
    (f"token is {GITHUB}", "secret", GITHUB),
    (f"id {AWS} works", "secret", AWS),
    (f"slack {SLACK}", "secret", SLACK),
    (f"Authorization: Bearer {JWT}", "secret", JWT),
    ("authorization: bearer abcDEF123456ghiJKL789", "secret", "abcDEF123456ghiJKL789"),
    ("password: Hunter2!x", "secret", "Hunter2!x"),
    ("DB_PASSWORD=s3cr3t-Value", "secret", "s3cr3t-Value"),
    ('"api_key": "9f8e7d6c5b4a39281706f5e4"', "secret", "9f8e7d6c5b4a39281706f5e4"),
    ("secret=Zx81kQ9pLmW2", "secret", "Zx81kQ9pLmW2"),
    ("postgres://admin:pa55word@db.example.com/x", "secret", "admin:pa55word"),
    (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
        "secret",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
    ),
    ("card 4111 1111 1111 1111 exp 12/27", "card", "4111 1111 1111 1111"),
    ("5555555555554444", "card", "5555555555554444"),
    ("amex 3782-822463-10005", "card", "3782-822463-10005"),
    ("from 203.0.113.77:8443", "ip", "203.0.113.77"),
    ("host 10.1.2.3 is down.", "ip", "10.1.2.3"),
    ("IBAN DE89 3704 0044 0532 0130 00 please", "iban", "DE89 3704 0044 0532 0130 00"),
    ("GB82WEST12345698765432", "iban", "GB82WEST12345698765432"),
    ("call +1 (555) 010-2030 now", "phone", "+1 (555) 010-2030"),
    ("+49 30 1234567", "phone", "+49 30 1234567"),
    ("ring me: 555-123-4567.", "phone", "555-123-4567"),
    ("(555) 123-4567", "phone", "(555) 123-4567"),
    ("1-800-555-0199 does not answer", "phone", "1-800-555-0199"),
    ("mobile 07700 900123", "phone", "07700 900123"),
    ("0171/1234567", "phone", "0171/1234567"),
    ("06 12 34 56 78", "phone", "06 12 34 56 78"),
    ("reach me at 5551234567", "phone", "5551234567"),
    ("Tel:5551234567", "phone", "5551234567"),
    ("my phone number is 555 0142 ok", "phone", "555 0142"),
]


@pytest.mark.parametrize(("text", "kind", "value"), FOUND, ids=[f"{k}-{i}" for i, (_, k, _) in enumerate(FOUND)])
def test_planted_data_is_found_exactly(text: str, kind: str, value: str) -> None:
    assert [(s.kind, text[s.start : s.end]) for s in find_spans(text)] == [(kind, value)]
    assert scrub_text(text) == text.replace(value, f"[{kind.upper()}_1]")


HARMLESS = [
    "order 4111-1111-1111-1112 is late",
    "order number 555-123-4567",
    "invoice #020 7946 0958",
    "order 123456789012",
    "ticket 5551234567 is open",
    "v1.2.3.4 crashed",
    "after the update to version 10.0.22.1 it broke",
    "driver 31.0.15.4601",
    "Chrome/120.0.6099.71",
    "127.0.0.1:8000 and 0.0.0.0",
    "300.1.2.3",
    "1.2.3.4.5",
    "2024-01-15T10:22:33.123+02:00",
    "2024-01-15 10:22:33",
    "15.01.2024 10.30",
    "01/02/2024 11:30",
    "from 09:15 to 17:30",
    "$1,299.99 or 1 299 000 EUR",
    "it took 1234567 ms",
    "1712345678 and 1712345678901",
    "timestamp call at 1712345678",
    "550e8400-e29b-41d4-a716-446655440000",
    "11111111-2222-3333-4444-555555555555",
    "commit 9fceb02d0ae598e95dc970b74767f19372d6",
    "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "lodash@4.17.21",
    "icon@2x.png",
    "git@github.com:acme/site.git",
    "@channel please",
    "user@localhost",
    "token: expired",
    "password: incorrect",
    "Password = changed",
    "the secret is out",
    "key: value",
    "primary key: customer_orders_2024_idx",
    "key=shift",
    "password=********",
    "password=$DB_PASS",
    "token=<your-token-here>",
    "sk-learn-compatibility-mode-on",
    "risk-assessment-2024-a",
    "max_tokens: 4096/8192",
    "error code 0x80070057",
    "ISO 27001:2022",
    "DE89 3704 0044 0532 0130 01",
    "page 12 of 345 678",
    "rows 200 300 4000 failed",
    "4242 rows and 16 digits",
    "GET /api/v2/users/1234567890 500",
    "C++ 2024 +12",
    "[EMAIL_1] wrote",
    "0x7f3a2b1c9d8e",
    "3.14159265358979323846",
    "9:41 1234",
    "SKU 0012-345678-90",
    "build 2024.01.15.3",
    "pid 20394 exited 137",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_lookalikes_stay(text: str) -> None:
    assert scrub_text(text) == text


def test_same_value_same_placeholder_across_turns() -> None:
    turns = [
        {"role": "system", "content": "ask boss@example.com"},
        {"role": "user", "content": "a@example.com or b@example.com, A@Example.com; +1 555 010 2030"},
        {"role": "assistant", "content": "I wrote to b@example.com and called +1 (555) 010-2030"},
    ]
    done, counts = scrub_messages(turns)
    assert [m["content"] for m in done] == [
        "ask boss@example.com",
        "[EMAIL_1] or [EMAIL_2], [EMAIL_1]; [PHONE_1]",
        "I wrote to [EMAIL_2] and called [PHONE_1]",
    ]
    assert counts == {"email": 4, "phone": 2}
    assert turns[1]["content"].startswith("a@example.com")
    assert scrub_messages(turns, keep=[2])[0][2] == turns[2]


def test_placeholders_in_the_text_are_not_taken_again() -> None:
    assert scrub_text("[EMAIL_1] forwarded c@example.com") == "[EMAIL_1] forwarded [EMAIL_2]"
    assert scrub_text("see x.y@example.com vs xy@example.com") == "see [EMAIL_1] vs [EMAIL_2]"


def test_check_digits() -> None:
    assert luhn_ok("79927398713") and not luhn_ok("79927398710")
    assert iban_ok("FR14 2004 1010 0505 0001 3M02 606") and not iban_ok("FR14 2004 1010 0505 0001 3M02 607")
    assert not iban_ok("DE89")


@given(st.text(st.sampled_from("0123456789 +-./:()@aAkeysctpowrd=_[]{}EI|\n\u0661"), max_size=120))
def test_any_text_gives_ordered_hits_that_do_not_overlap(text: str) -> None:
    spans = find_spans(text)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert find_spans(scrub_text(text)) == []
