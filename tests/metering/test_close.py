"""What is booked at the end, however it came."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.metering.answers import Observed
from gateway.metering.close import usage_at_end
from gateway.units import Meter, Usage

ASK = {Meter.INPUT_TEXT: 100, Meter.OUTPUT_TEXT: 1_000}
USED = {Meter.INPUT_TEXT: 90, Meter.OUTPUT_TEXT: 7}
SEEN_2000 = ASK | {Meter.OUTPUT_TEXT: 2_000}
SPOKEN = {Meter.INPUT_TEXT: 100, Meter.OUTPUT_AUDIO: 1_000}
SEEN_7 = {Meter.INPUT_TEXT: 100, Meter.OUTPUT_TEXT: 7}
WHOLE = {"status": 200, "complete": True, "billable": True, "hides_tokens": False, "streamed": False}
STREAM = WHOLE | {"streamed": True}
CUT = STREAM | {"complete": False}
BACKGROUND = {"background": True}

ENDS = [
    pytest.param(Observed(usage=USED), WHOLE, (USED, "reported"), id="usage"),
    pytest.param(Observed(usage={}), WHOLE, ({}, "reported"), id="moderation: nothing, reported"),
    pytest.param(Observed(usage=USED), CUT, (USED, "reported"), id="usage, then a cut"),
    pytest.param(Observed(usage=USED, answer_status="cancelled"), WHOLE, (USED, "reported"), id="cancelled with usage"),
    pytest.param(Observed(usage=USED, error_code="x"), STREAM, (USED, "reported"), id="usage and an error"),
    pytest.param(None, WHOLE, (ASK, "unknown"), id="nothing came"),
    pytest.param(Observed(), WHOLE | {"status": None}, (ASK, "unknown"), id="no head came"),
    pytest.param(Observed(error_code="x"), WHOLE | {"status": 400}, ({}, "not_billed"), id="refused"),
    pytest.param(Observed(), WHOLE | {"status": 399}, (ASK, "unknown"), id="one below a refusal"),
    pytest.param(Observed(usage=USED), WHOLE | {"status": 500}, ({}, "not_billed"), id="failed, whatever it says"),
    pytest.param(Observed(lost="x"), WHOLE | {"status": 503, "complete": False}, ({}, "not_billed"), id="failed and cut"),
    pytest.param(Observed(), WHOLE | {"billable": False}, ({}, "not_billed"), id="an endpoint that bills nothing"),
    pytest.param(None, WHOLE | {"billable": False, "status": None}, ({}, "not_billed"), id="bills nothing, nothing came"),
    pytest.param(Observed(lost="x"), WHOLE, (ASK, "unknown"), id="lost"),
    pytest.param(Observed(lost="x", emitted_tokens=7), CUT, (ASK, "unknown"), id="lost and cut"),
    pytest.param(Observed(lost="x", answer_status="failed"), WHOLE, (ASK, "unknown"), id="failed with usage that is lost"),
    pytest.param(Observed(), WHOLE, (ASK, "unknown"), id="a whole answer without usage"),
    pytest.param(Observed(emitted_tokens=7), STREAM, (ASK, "unknown"), id="a whole stream without usage"),
    pytest.param(Observed(), WHOLE | {"complete": False}, (ASK, "unknown"), id="a cut whole answer"),
    pytest.param(Observed(emitted_tokens=7), CUT, (SEEN_7, "estimated"), id="a cut stream"),
    pytest.param(Observed(), CUT, ({Meter.INPUT_TEXT: 100}, "estimated"), id="a stream cut before its first token"),
    pytest.param(Observed(emitted_tokens=7), CUT | {"hides_tokens": True}, (ASK, "unknown"), id="a cut stream that hid tokens"),
    pytest.param(Observed(emitted_tokens=7, error_code="x"), STREAM, (SEEN_7, "estimated"), id="a stream that ended in an error"),
    pytest.param(Observed(emitted_tokens=7, answer_status="in_progress"), CUT, (SEEN_7, "estimated"), id="a response cut on its way"),
    pytest.param(Observed(answer_status="queued"), WHOLE, (ASK, "unknown"), id="queued"),
    pytest.param(Observed(answer_status="in_progress"), WHOLE, (ASK, "unknown"), id="in the background"),
    pytest.param(Observed(usage=USED, answer_status="in_progress"), WHOLE, (ASK, "unknown"), id="usage that is not final"),
    pytest.param(
        Observed(emitted_tokens=7, answer_status="in_progress", error_code="x"), STREAM, (SEEN_7, "estimated"), id="a response that broke"
    ),
    pytest.param(Observed(answer_status="in_progress"), CUT | BACKGROUND, (ASK, "unknown"), id="cut, and goes on in the background"),
    pytest.param(Observed(), CUT | BACKGROUND, (ASK, "unknown"), id="cut before its first event, and goes on in the background"),
    pytest.param(
        Observed(answer_status="in_progress", error_code="x"),
        STREAM | BACKGROUND,
        (ASK, "unknown"),
        id="broke, and goes on in the background",
    ),
    pytest.param(Observed(usage=USED, answer_status="completed"), STREAM | BACKGROUND, (USED, "reported"), id="done in the background"),
    pytest.param(Observed(answer_status="failed", error_code="x"), STREAM, ({}, "not_billed"), id="a failed response without usage"),
    pytest.param(Observed(answer_status="cancelled"), WHOLE, (ASK, "unknown"), id="a cancelled response without usage"),
]


MORE_SEEN_THAN_ASKED = [
    pytest.param(Observed(lost="x", emitted_tokens=2_000), STREAM, id="lost"),
    pytest.param(Observed(emitted_tokens=2_000), CUT | {"hides_tokens": True}, id="a cut stream that hid tokens"),
    pytest.param(Observed(emitted_tokens=2_000), STREAM, id="a whole stream without usage"),
    pytest.param(Observed(emitted_tokens=2_000, answer_status="cancelled"), STREAM, id="cancelled"),
    pytest.param(Observed(emitted_tokens=2_000), CUT | BACKGROUND, id="goes on in the background"),
    pytest.param(Observed(emitted_tokens=2_000, answer_status="in_progress"), STREAM, id="in progress"),
]


@pytest.mark.parametrize("observed, end", MORE_SEEN_THAN_ASKED)
def test_what_is_unknown_is_never_less_than_was_seen(observed: Observed, end: dict[str, Any]) -> None:
    assert usage_at_end(observed, ask=ASK, **end) == (SEEN_2000, "unknown")
    assert usage_at_end(observed, ask=SPOKEN, **end) == (SPOKEN, "unknown")  # deltas of audio are no tokens
    assert usage_at_end(observed, ask={Meter.INPUT_TEXT: 100}, **end) == (SEEN_2000, "unknown")


@pytest.mark.parametrize("emitted, output", [(999, 1_000), (1_000, 1_000), (1_001, 1_001)])
def test_the_larger_of_asked_and_seen_is_booked(emitted: int, output: int) -> None:
    usage, _ = usage_at_end(Observed(lost="x", emitted_tokens=emitted), ask=ASK, **STREAM)
    assert usage == {Meter.INPUT_TEXT: 100, Meter.OUTPUT_TEXT: output}
    assert ASK[Meter.OUTPUT_TEXT] == 1_000


@pytest.mark.parametrize("observed, end, booked", ENDS)
def test_end(observed: Observed | None, end: dict[str, Any], booked: tuple[Usage, str]) -> None:
    assert usage_at_end(observed, ask=ASK, **end) == booked
