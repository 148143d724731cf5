"""Which files there are, and reading only those that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from pydantic import BaseModel

from gateway.config.documents import FILE_BYTES_MAX, Document, read_document
from gateway.config.problems import Findings, KeyPath, Problem
from gateway.config.substitute import Variables, substitute
from gateway.config.validate import validate
from gateway.config.watch import Stamp, Stamps, names_in, settled, stamp_of

AModel = TypeVar("AModel", bound=BaseModel)
T = TypeVar("T")
Reader = Callable[[Path], bytes]

_READ_BYTES = 16_384  # at once: more than most files have, and quickly given back


def read_bytes(path: Path) -> bytes:
    """At most one byte more than a file may have, so that a huge one is refused and not held."""
    content = b""
    with path.open("rb", buffering=0) as file:
        while more := file.read(min(_READ_BYTES, FILE_BYTES_MAX + 1 - len(content))):
            content += more
    return content


@dataclass(frozen=True, slots=True)
class ReadFile(Generic[T]):
    """One file, read and found good. Its text is kept: the line of a key is looked up only when a problem needs it."""

    file: str
    stamp: Stamp
    content: bytes
    digest: bytes
    variables: Variables
    value: T


class LazySource:
    """A file that was read, parsed again when a problem points into it."""

    __slots__ = ("_document", "_read")

    def __init__(self, read: ReadFile[Any]) -> None:
        self._read = read
        self._document: Document | None = None

    @property
    def file(self) -> str:
        """Its path as the user named it."""
        return self._read.file

    def line(self, path: KeyPath) -> int:
        """The line of a key, from 1."""
        return self._parsed().line(path)

    def written(self, path: KeyPath) -> object:
        """The value as it is written, before substitution."""
        return self._parsed().written(path)

    def _parsed(self) -> Document:
        if self._document is None:
            document = read_document(self._read.file, self._read.content)
            assert isinstance(document, Document)  # the same bytes were parsed before
            self._document = document
        return self._document


class Files:
    """Reads configuration files into values. What is unchanged since `previous` is taken from there."""

    def __init__(
        self,
        env: Mapping[str, str],
        previous: Mapping[str, ReadFile[Any]],
        read: Reader,
        findings: Findings,
        stamps: Stamps | None = None,
    ) -> None:
        """`stamps`: of files that were looked at already; the others are when they are read."""
        self._env = env
        self._stamps = stamps or {}
        self._previous = previous
        self._read = read
        self._findings = findings
        self.read_files: dict[str, ReadFile[Any]] = {}
        self.order: list[str] = []  # of every file that was looked at
        self.broken: list[tuple[Path, dict[str, Any]]] = []  # files with problems, and what could be parsed of them

    def read(self, path: Path, model: type[AModel], convert: Callable[[AModel], T]) -> ReadFile[T] | None:
        """The file as a checked value; None after its problems were noted."""
        self.order.append(str(path))
        found = self._read_one(path, model, convert)
        if found is not None:
            self.read_files[str(path)] = found
        return found

    def read_folder(self, folder: Path, model: type[AModel], convert: Callable[[AModel], T]) -> Iterator[ReadFile[T]]:
        """Every `.yaml` file of a folder, sorted by name. A `.yml` is a problem: it would be left out in silence."""
        try:
            names = names_in(folder)
        except OSError as error:
            self._findings.problems.append(Problem(str(folder), 0, "", f"cannot be read: {error.strerror}"))
            return
        for name in names:
            if name.endswith(".yml"):
                self._fail(folder / name, "is not read, let its name end in .yaml")
            elif name.endswith(".yaml") and (found := self.read(folder / name, model, convert)):
                yield found

    def _read_one(self, path: Path, model: type[AModel], convert: Callable[[AModel], T]) -> ReadFile[T] | None:
        name = str(path)
        stamp = (self._stamps if name in self._stamps else settled({name: stamp_of(path)}))[name]
        if stamp is not None and not stamp.is_file:
            self._fail(path, "is not a file")
            return None
        known: ReadFile[T] | None = self._previous.get(name)
        if known is not None and any(self._env.get(name) != was for name, was in known.variables.items()):
            known = None
        if known is not None and stamp == known.stamp:
            return known
        try:
            content = self._read(path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            self._fail(path, "there is no such file" if missing else f"cannot be read: {error.strerror}")
            return None
        digest = sha256(content).digest()
        stamp = stamp or Stamp(0, 0, 0, 0, True)  # it came between two looks: read again next time
        if known is not None and digest == known.digest:
            return ReadFile(known.file, stamp, content, digest, known.variables, known.value)
        return self._parse(path, stamp, content, digest, model, convert)

    def _parse(
        self, path: Path, stamp: Stamp, content: bytes, digest: bytes, model: type[AModel], convert: Callable[[AModel], T]
    ) -> ReadFile[T] | None:
        document = read_document(str(path), content)
        if not isinstance(document, Document):
            self._findings.problems += document
            self.broken.append((path, {}))
            return None
        problems_before = len(self._findings.problems)
        values, variables = document.value, Variables()
        if b"$" in content or b"\\" in content:  # a `$` may be written as an escape
            values, variables = substitute(document, self._env, self._findings)
        checked = validate(document, values, model, self._findings)
        if checked is not None and len(self._findings.problems) == problems_before:
            try:
                value = convert(checked)
                msgspec.msgpack.encode(value, enc_hook=lambda _: None)  # the control socket's integers have 64 bits
                return ReadFile(str(path), stamp, content, digest, variables, value)
            except (ValueError, OverflowError) as error:
                message = "a number is larger than 64 bits can hold" if isinstance(error, OverflowError) else str(error)
                self._findings.problems.append(Problem(str(path), 1, "", message))
        self.broken.append((path, document.value))
        return None

    def _fail(self, path: Path, message: str) -> None:
        self._findings.problems.append(Problem(str(path), 0, "", message))
        self.broken.append((path, {}))
