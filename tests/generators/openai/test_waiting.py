"""How long servers ask to wait, in their own forms."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from batchroute.generators.openai.waiting import retry_after


def test_headers_say_how_long_to_wait() -> None:
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "9.5"}) == 9.5
    assert retry_after({"retry-after": "-1"}) == 0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    in_2100 = retry_after({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"})
    assert in_2100 is not None
    assert in_2100 > 1e9
    assert [retry_after({"retry-after": text}) for text in ("", "soon", "12 monkeys")] == [None] * 3
    assert [retry_after({"retry-after": text}) for text in ("nan", "inf", "Fri, 31 Dec 9999 99:00:00 GMT")] == [
        None
    ] * 3
    assert retry_after({}) is None


def test_google_says_in_the_body_how_long_to_wait() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}, {"retryDelay": "34.5s"}, "x"]
    assert retry_after({}, {"details": details}) == 34.5
    assert [retry_after({}, {"details": one}) for one in ("x", None, [], [{"retryDelay": 7}])] == [None] * 4


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "7.66"}, 7.66),
        ({"x-ratelimit-remaining-requests": "12", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "5", "retry-after": "2"}, 2),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "9s",
            },
            9,
        ),
    ],
)
def test_a_limit_that_is_used_up_says_when_it_is_reset(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_reset_may_be_a_moment() -> None:
    at = time.time() + 100
    for reset in (str(at), str(int(at * 1000)), datetime.fromtimestamp(at, UTC).isoformat()):
        wait = retry_after({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": reset})
        assert wait is not None
        assert 90 < wait <= 100
