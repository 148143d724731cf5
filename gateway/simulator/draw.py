"""What a call uses: disjoint quantities, drawn before any usage object exists.

Everything follows from the seed and the content of the request, so the same request draws the same again, in whatever order
and however many at once. `X-Simulator-Usage: input_text=86;cached_text=1920;output_text=300` replaces the draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from gateway.simulator.models import Model
from gateway.simulator.prices import meters_of
from gateway.simulator.refusal import invalid
from gateway.units import Meter, Usage, div_ceil

BLOCK_TOKENS = 128  # cached and written in whole blocks; OpenAI begins at 1,024, here a short prompt can be cached too
CHARS_PER_TOKEN = 4  # reference/limits-and-errors.md section 2: the divisor is convention
MESSAGE_TOKENS = 3
IMAGE_TOKENS = 765  # a middling picture, or a file; text models price it as text (section 4.2 has no image column)
AUDIO_BYTES_PER_TOKEN = 4800  # 100 ms of 24 kHz mono, 16 bits: 1 token (reference/realtime.md section 3)
VISIBLE_TOKENS_MAX = 50_000  # of an answer whose usage a header dictates: it must be held in memory
DICTATED_TOKENS_MAX = 5_000_000

DETAILS = ("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")
Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of a call: what of it can be seen or heard, in tokens."""

    text_tokens: int
    audio_tokens: int = 0
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class Draw:
    """What one call uses. `details` are subsets of the output and never priced."""

    model: str  # as served
    service_tier: str  # as served
    quantities: Usage
    details: dict[str, int] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()

    @property
    def output_text(self) -> int:
        """All text tokens of the output, hidden ones too."""
        return self.quantities.get(Meter.OUTPUT_TEXT, 0)

    @property
    def output_audio(self) -> int:
        """All audio tokens of the output."""
        return self.quantities.get(Meter.OUTPUT_AUDIO, 0)

    @property
    def hidden_tokens(self) -> int:
        """Output that is billed and in no choice: reasoning, rejected predictions, candidates that lost."""
        return self.output_text - sum(choice.text_tokens for choice in self.choices)

    def cut(self, output_text: int, output_audio: int, fees: Usage) -> Draw:
        """The same call when no more than this had been generated. All of the input counts: it was read before."""
        quantities = {meter: n for meter, n in self.quantities.items() if meter in CUT_KEEPS}
        quantities |= {Meter.OUTPUT_TEXT: min(output_text, self.output_text), Meter.OUTPUT_AUDIO: min(output_audio, self.output_audio)}
        quantities |= fees
        details = {name: min(n, quantities[Meter.OUTPUT_TEXT]) for name, n in self.details.items()}
        return replace(self, quantities={meter: n for meter, n in quantities.items() if n}, details=details)


CUT_KEEPS = frozenset(meter for meter in Meter if meter.startswith(("input_", "cached_", "cache_write_", "duration_in")))


class Dice:
    """Numbers that follow from a seed and a content; each label has its own."""

    def __init__(self, seed: int, *content: Any) -> None:
        self._digest = blake2b(msgspec.json.encode((seed, content)), digest_size=16).digest()

    def roll(self, label: str, low: int, high: int) -> int:
        """A number from low to high, both included; low if high is not above it."""
        if high <= low:
            return low
        number = int.from_bytes(blake2b(self._digest + label.encode(), digest_size=8).digest(), "big")
        return low + number % (high - low + 1)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes in, in tokens by modality."""

    text: int = 0
    audio: int = 0
    context: int = 0  # of `text`: what earlier turns left on the server


@dataclass(frozen=True, slots=True)
class Wish:
    """What the request says about its answer."""

    tokens_max: int | None = None  # the request's own cap, of each choice
    choices: int = 1
    unseen: int = 0  # candidates that are generated and not shown (best_of)
    spoken: bool = False
    reasons: bool = True
    predicted: bool = False
    cache_kept_12h: bool = False


def text_tokens(chars: int) -> int:
    """Tokens of so many characters."""
    return div_ceil(chars, CHARS_PER_TOKEN)


def prompt_of(parts: Iterable[Any], context: int = 0) -> Prompt:
    """The prompt in messages, items, strings or token ids, as requests hold them."""
    text = audio = 0
    for part in parts:
        chars, images, audio_tokens, ids = _measure(part)
        text += text_tokens(chars) + images * IMAGE_TOKENS + ids + MESSAGE_TOKENS * isinstance(part, dict)
        audio += audio_tokens
    return Prompt(text + context, audio, context)


def _measure(part: Any) -> tuple[int, int, int, int]:
    """(characters, images, audio tokens, token ids) of a part of a prompt and all that is inside it."""
    if isinstance(part, str):
        return len(part), 0, 0, 0
    if isinstance(part, int):
        return 0, 0, 0, 1
    if isinstance(part, list):
        return _add(_measure(inner) for inner in part)
    if not isinstance(part, dict):
        return 0, 0, 0, 0
    kind = part.get("type")
    if kind in ("image_url", "input_image", "file", "input_file"):
        return 0, 1, 0, 0
    if kind == "input_audio":
        sound = part.get("input_audio")
        data = sound.get("data") if isinstance(sound, dict) else None
        return 0, 0, max(1, len(data) * 3 // 4 // AUDIO_BYTES_PER_TOKEN) if isinstance(data, str) else 0, 0
    return _add(_measure(value) for key, value in part.items() if key not in ("type", "role", "id", "status"))


def _add(measures: Iterable[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    chars = images = audio = ids = 0
    for measure in measures:
        chars, images, audio, ids = chars + measure[0], images + measure[1], audio + measure[2], ids + measure[3]
    return chars, images, audio, ids


def draw(dice: Dice, model: Model, service_tier: str, prompt: Prompt, wish: Wish) -> Draw:
    """Draw the quantities of one call that generates text or speech."""
    quantities: Usage = _draw_input(dice, model, prompt, wish)
    choices: list[Choice] = []
    reasoning = output = audio = 0
    for index in range(wish.choices + wish.unseen):
        thought, choice = _draw_choice(dice, f"choice {index}", model, wish)
        reasoning, output, audio = reasoning + thought, output + thought + choice.text_tokens, audio + choice.audio_tokens
        if index < wish.choices:
            choices.append(choice)
    details = {"reasoning_tokens": reasoning} if reasoning else {}
    if wish.predicted:
        rejected = dice.roll("rejected", 1, 20)
        output += rejected
        details |= {"accepted_prediction_tokens": choices[0].text_tokens // 2, "rejected_prediction_tokens": rejected}
    quantities |= {Meter.OUTPUT_TEXT: output, Meter.OUTPUT_AUDIO: audio}
    return Draw(model.name, service_tier, {meter: n for meter, n in quantities.items() if n}, details, tuple(choices))


def _draw_input(dice: Dice, model: Model, prompt: Prompt, wish: Wish) -> Usage:
    """The prompt, cut into what was in the cache, what is written to it, and the rest. A model without such a price has no such part."""
    priced = meters_of(model.row)
    cached = written = 0
    if Meter.CACHED_TEXT in priced and (prompt.context >= BLOCK_TOKENS or dice.roll("cached", 0, 2) == 0):
        cached = dice.roll("cached blocks", 1, prompt.text // BLOCK_TOKENS) * BLOCK_TOKENS if prompt.text >= BLOCK_TOKENS else 0
    rest = prompt.text - cached
    if Meter.CACHE_WRITE_TEXT in priced and rest >= BLOCK_TOKENS and dice.roll("written", 0, 1):
        written = rest // BLOCK_TOKENS * BLOCK_TOKENS
    write_meter = Meter.CACHE_WRITE_12H_TEXT if wish.cache_kept_12h else Meter.CACHE_WRITE_TEXT
    return {
        Meter.INPUT_TEXT: rest - written,
        Meter.CACHED_TEXT: cached,
        write_meter: written,
        Meter.INPUT_AUDIO: prompt.audio,
    }


def _draw_choice(dice: Dice, label: str, model: Model, wish: Wish) -> tuple[int, Choice]:
    reasoning = 64 * dice.roll(f"{label} reasoning", 1, 12) if model.reasoning and wish.reasons else 0
    text = dice.roll(f"{label} text", 8, 160)
    audio = text * 5 + dice.roll(f"{label} audio", 0, 20) if wish.spoken else 0
    cap = wish.tokens_max if wish.tokens_max is not None else reasoning + text + audio
    finish: Finish = "length" if reasoning + text + audio > cap else "stop"
    reasoning = min(reasoning, cap)
    text = min(text, cap - reasoning) if not wish.spoken else min(text, (cap - reasoning) // 6)
    return reasoning, Choice(text, min(audio, cap - reasoning - text), finish)


def dictated(header: str, model: Model, service_tier: str, wish: Wish, meters: frozenset[Meter]) -> Draw:
    """The draw a request asks for in X-Simulator-Usage, instead of ours.

    Only meters that the endpoint's usage object can tell; the request's own cap is not applied.
    """
    numbers = _numbers(header)
    unknown = [name for name in numbers if name not in DETAILS and name not in meters]
    if unknown:
        raise invalid(f"X-Simulator-Usage cannot hold {unknown[0]!r} here; it may hold {', '.join(sorted(meters))}, {', '.join(DETAILS)}.")
    details = {name: numbers.pop(name) for name in DETAILS if name in numbers}
    quantities = {Meter(name): n for name, n in numbers.items() if n}
    hidden = details.get("reasoning_tokens", 0) + details.get("rejected_prediction_tokens", 0)
    text, audio = quantities.get(Meter.OUTPUT_TEXT, 0) - hidden, quantities.get(Meter.OUTPUT_AUDIO, 0)
    if not 0 <= text <= VISIBLE_TOKENS_MAX or audio > VISIBLE_TOKENS_MAX:
        raise invalid(f"X-Simulator-Usage: 0 to {VISIBLE_TOKENS_MAX} tokens of output can be seen or heard, not {text} and {audio}.")
    return Draw(model.name, service_tier, quantities, details, tuple(_shares(text, audio, wish.choices)))


def _numbers(header: str) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for part in header.split(";"):
        name, _, number = part.strip().partition("=")
        if not number.isascii() or not number.isdigit() or int(number) > DICTATED_TOKENS_MAX:
            raise invalid(f"X-Simulator-Usage: {part.strip()!r} is not name=number, up to {DICTATED_TOKENS_MAX}.")
        numbers[name] = int(number)
    return numbers


def _shares(text: int, audio: int, choices: int) -> Iterable[Choice]:
    for index in range(choices):
        yield Choice(text // choices + (index < text % choices), audio // choices + (index < audio % choices))


def tier_served(asked: Any, has_tier: Mapping[str, bool]) -> str:
    """The service tier that answers. One the model has no prices for is served as standard, as priority is when it is scarce.

    Source: reference/usage-and-pricing.md rule 6; `fast` is another name of `priority`.
    """
    wanted = "priority" if asked == "fast" else asked
    return wanted if isinstance(wanted, str) and has_tier.get(wanted, False) else "default"
