"""What is booked when an exchange ends: as reported, estimated, at what was reserved, or nothing, and which of these it is."""

from __future__ import annotations

from gateway.metering.answers import Observed
from gateway.units import INPUT_METERS, Meter, Usage, UsageSource

_NOT_YET = frozenset({"queued", "in_progress"})
ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})


def usage_at_end(
    observed: Observed | None,
    *,
    ask: Usage,
    status: int | None,
    complete: bool,
    billable: bool,
    hides_tokens: bool,
    streamed: bool,
    background: bool = False,
) -> tuple[Usage, UsageSource]:
    """Usage to book, and how it is known. Total.

    `status` is OpenAI's (None: no answer came), `complete` that the answer came whole, terminal event included, `background` that
    the response goes on without its connection, `hides_tokens` that its deltas do not show what it generates (reasoning, audio).
    The ask, where it is booked, holds at least the output that was seen. The first that fits:

    - the endpoint bills nothing: nothing, not_billed
    - no answer came: the ask, unknown (it may have been served all the same)
    - OpenAI refused (400 and above): nothing, not_billed (reference/usage-and-pricing.md rule 2.13)
    - a background response that is not done, its stream cut or not: the ask, unknown; its usage comes later and supersedes this
    - usage was reported: that, reported. Also of failed, cancelled and cut answers
    - what was reported cannot be trusted: the ask, unknown
    - a response that failed and reports none: nothing, not_billed (as reference/realtime.md 6.1 says of such responses).
      A cancelled one that reports none was charged for what it generated, which nobody knows: the ask, unknown
    - a stream that broke, on a model that hides no tokens: the input of the ask and the tokens seen, estimated
    - all else, a whole answer without usage, a cut whole answer, a cut stream that hid tokens: the ask, unknown
    """
    if not billable:
        return {}, "not_billed"
    if observed is None or status is None:
        return ask, "unknown"
    if status >= 400:
        return {}, "not_billed"
    worst = _at_least(ask, observed.emitted_tokens)
    if observed.answer_status in _NOT_YET and complete and observed.error_code is None:
        return worst, "unknown"
    if background and observed.answer_status not in ENDED:
        return worst, "unknown"
    if observed.usage is not None:
        return observed.usage, "reported"
    if observed.lost is not None or observed.answer_status == "cancelled":
        return worst, "unknown"
    if observed.answer_status == "failed":
        return {}, "not_billed"
    broke = not complete or observed.error_code is not None
    if streamed and broke and not hides_tokens:
        return _emitted(ask, observed.emitted_tokens), "estimated"
    return worst, "unknown"


def _at_least(ask: Usage, emitted_tokens: int) -> Usage:
    """The ask, or more where a learned or configured output was less than what came. Deltas of audio are no tokens."""
    if emitted_tokens <= ask.get(Meter.OUTPUT_TEXT, 0) or Meter.OUTPUT_AUDIO in ask:
        return ask
    return ask | {Meter.OUTPUT_TEXT: emitted_tokens}


def _emitted(ask: Usage, emitted_tokens: int) -> Usage:
    usage = {meter: ask[meter] for meter in INPUT_METERS if ask.get(meter)}
    if emitted_tokens:
        usage[Meter.OUTPUT_TEXT] = emitted_tokens
    return usage
