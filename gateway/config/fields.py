"""How one value is written in a configuration file, and what it becomes. Money is a quoted string, never a float."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from gateway.config.snapshot import Listen
from gateway.units import PICOUSD_PER_USD

USD_MAX = 9_000_000  # pico-dollars must fit 63 bits
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_OWN_PORTS = {"http": ":80", "https": ":443"}
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_KEY_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_USD = re.compile(r"[0-9]{1,7}(\.[0-9]{1,12})?")


class Section(BaseModel):
    """A mapping of known keys. Its docstring and descriptions are what editors show."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _whole(value: object) -> int:
    """An integer. Digits in a string are one too, since `${NAME}` gives strings; true and 1.0 are not."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    raise ValueError("a whole number is needed")


def is_name(text: str) -> bool:
    """Whether it can name a team, key or account."""
    return _NAME.fullmatch(text) is not None


def parse_name(value: object) -> str:
    """The name of a team, key or account; ValueError says what is allowed."""
    if isinstance(value, str) and is_name(value):
        return value
    raise ValueError("a name is 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit (put it in quotes if it is a number)")


def _picousd(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError('put dollars in quotes, as "500" or "12.50", so that they stay exact')
    if not _USD.fullmatch(value):
        raise ValueError('dollars are written as "500" or "12.50", with at most 12 decimals')
    picousd = int(Decimal(value) * PICOUSD_PER_USD)
    if not 0 < picousd <= USD_MAX * PICOUSD_PER_USD:
        raise ValueError(f"must be more than 0 and at most {USD_MAX} dollars")
    return picousd


def _percent(value: object) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not 0 < value <= 1:
        raise ValueError("a share above 0 and up to 1 is needed, as 0.8")
    percent = Decimal(str(value)) * 100
    if percent != int(percent):
        raise ValueError("a share in whole percent is needed, as 0.8 or 0.85")
    return int(percent)


def _key_hash(value: object) -> str:
    if isinstance(value, str) and _KEY_HASH.fullmatch(value):
        return value.removeprefix("sha256:")
    raise ValueError("a hash is written as sha256: and 64 lowercase hex digits; `gateway keys create` makes one")


def parse_expires_us(value: object) -> int | None:
    """Unix time from when a key is refused; a date begins at 00:00 UTC. ValueError says what is allowed."""
    hint = "a date (2027-01-31, which means 00:00 UTC) or a time with its zone (2027-01-31T18:00:00Z) is needed"
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value) if len(value) > 10 else date.fromisoformat(value)
        except ValueError:
            raise ValueError(hint) from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(hint)
    elif isinstance(value, date):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        raise ValueError(hint)
    since_1970 = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_1970.days * 86_400 + since_1970.seconds) * 1_000_000 + since_1970.microseconds


def parse_listen(value: object) -> Listen:
    """ "127.0.0.1:8080", "[::1]:8080", "localhost:0" or "unix:/run/gateway.sock"."""
    hint = "an address is written as host:port, [::1]:port or unix:/path"
    if not isinstance(value, str):
        raise ValueError(hint)
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path or "\0" in path or len(path.encode()) > 100:  # sun_path holds 108 bytes
            raise ValueError("a socket path has 1 to 100 bytes")
        return Listen("", 0, path)
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address is written in brackets, as [::1]:8080")
    if not colon or not host or not re.fullmatch(r"[0-9A-Za-z._:%-]+", host) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(hint)
    if int(port) > 65_535:
        raise ValueError("a port is at most 65535")
    return Listen(host, int(port))


def parse_origin(value: object) -> str:
    """ "https://app.example.com", "http://localhost:5173" or "*", as browsers write it: in lower case, without the scheme's own port."""
    origin = value.lower() if isinstance(value, str) else ""
    found = _ORIGIN.fullmatch(origin)
    if found is not None and int(found[3] or 0) <= 65_535:
        return origin.removesuffix(_OWN_PORTS.get(found[1], "no port"))
    if origin == "*":
        return origin
    raise ValueError('an origin is written as browsers send it, https://app.example.com or http://localhost:5173, without a path; "*": any')


def parse_socket_mode(value: object) -> int:
    """ "0660" to 0o660."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('a mode is written in quotes, as "0660"')
    return int(value, 8)


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list) else (value,)


def _base_url(value: object) -> str:
    hint = "an address is written as https://host or http://host[:port][/path]"
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(hint)
    try:
        parts = urlsplit(value)
        port_fits = parts.port != 0
    except ValueError:
        raise ValueError(hint) from None
    if parts.scheme not in ("https", "http") or not parts.hostname or not port_fits:
        raise ValueError(hint)
    if "?" in value or "#" in value or parts.username is not None:
        raise ValueError("no query, fragment or credentials are allowed in this address")
    return value.rstrip("/")


Count = Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(_whole)]
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(_whole)]
Milliseconds = Annotated[int, Field(ge=1, le=86_400_000), BeforeValidator(_whole)]
Bytes = Annotated[int, Field(ge=1_024, le=2**40), BeforeValidator(_whole)]
SegmentBytes = Annotated[int, Field(ge=65_536, le=2**30), BeforeValidator(_whole)]  # room for ten entries at least
BytesPerToken = Annotated[int, Field(ge=1, le=16), BeforeValidator(_whole)]
Name = Annotated[str, PlainValidator(parse_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
Picousd = Annotated[
    int, PlainValidator(_picousd), WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,7}(\.[0-9]{1,12})?$", "examples": ["500"]})
]
Percent = Annotated[int, PlainValidator(_percent), WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1})]
KeyHash = Annotated[str, PlainValidator(_key_hash), WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})]
ExpiresUs = Annotated[
    int | None,
    PlainValidator(parse_expires_us),
    WithJsonSchema({"type": ["string", "null"], "examples": ["2027-01-31", "2027-01-31T18:00:00Z"]}),
]
ListenText = Annotated[
    Listen,
    PlainValidator(parse_listen),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080", "[::1]:8080", "unix:/run/gateway.sock"]}),
]
ListenTexts = Annotated[
    tuple[ListenText, ...],
    BeforeValidator(_one_or_many),
    Field(min_length=1, max_length=16),
    WithJsonSchema(
        {"type": ["string", "array"], "items": {"type": "string"}, "minItems": 1, "examples": ["127.0.0.1:8080", ["[::]:8080"]]}
    ),
]
Origins = Annotated[
    tuple[Annotated[str, PlainValidator(parse_origin)], ...],
    BeforeValidator(_one_or_many),
    Field(max_length=1_000),
    WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}, "examples": [["https://app.example.com"], "*"]}),
]
SocketMode = Annotated[int, PlainValidator(parse_socket_mode), WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{3}$"})]
BaseUrl = Annotated[str, PlainValidator(_base_url), WithJsonSchema({"type": "string", "examples": ["https://api.openai.com/v1"]})]


def default(value: Any, description: str) -> Any:
    """A key that may be left out; its default is written as in the file and checked like it."""
    return Field(value, description=description, validate_default=True)
