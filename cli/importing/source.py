"""From bytes to CSV records, a line at a time, with the line of everything that can't be read."""

import contextlib
import csv
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

#: Longer than any line of a billing export; keeps a file that isn't CSV at all from filling the memory.
MAX_LINE_BYTES = 1_048_576
BOM = b"\xef\xbb\xbf"
#: Where a cell couldn't be decoded, this stands. A file that already holds it was damaged before it came here.
UNREADABLE = "\ufffd"

_CSV_TROUBLE = (  # the csv module's message, and ours
    ("unexpected end of data", "has a quote that is never closed"),
    (
        "field larger than field limit",
        "has a quote that is never closed, or a cell of more than 131,072 characters",
    ),
    ("expected after", 'has text after a closing quote; write a quote inside a quoted cell as ""'),
    ("new-line character", "has a bare carriage return; save the file with line ends LF or CR LF"),
)


class ImportUsageError(Exception):
    """The command or the file's shape is wrong, so that no row was looked at. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Record:
    """One CSV record and the line that it starts on. `trouble` says why its cells can't be used, if they can't."""

    line: int
    cells: list[str]
    text: str  # as it stands in the file
    trouble: str | None = None
    is_undecodable: bool = False


class Source:
    """A CSV file that can be read more than once. Records come out one by one; nothing is kept."""

    def __init__(self, file: BinaryIO, encoding: str = "utf-8", delimiter: str = ",") -> None:
        self._file = file
        self._encoding = _checked_encoding(encoding)
        self._delimiter = _checked_delimiter(delimiter)
        file.seek(0, 2)
        self.size_bytes = file.tell()
        self.sha256 = ""  # known when all records have been read

    @property
    def delimiter(self) -> str:
        return self._delimiter

    def records(self, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[Record]:
        """Read from the start; `on_bytes` is told how many bytes have been read so far, once a record.

        ImportUsageError for a line that no CSV has.
        """
        self._file.seek(0)
        lines = _Lines(self._file, self._encoding)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            line = lines.begin_record()
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                yield Record(line, [], lines.text, _in_words(error))
            else:
                if lines.trouble is not None:
                    yield Record(line, cells, lines.text, lines.trouble, is_undecodable=True)
                elif cells:  # csv gives an empty list for an empty line
                    yield Record(line, cells, lines.text)
            on_bytes(lines.bytes_read)
        self.sha256 = lines.sha256.hexdigest()


class _Lines:
    """Decoded lines for csv.reader. A line that isn't in the file's encoding is marked and read where it can be."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._encoding = encoding
        self.number = 0
        self.bytes_read = 0
        self.sha256 = hashlib.sha256()
        self.trouble: str | None = None
        self._texts: list[str] = []

    def begin_record(self) -> int:
        self._texts.clear()
        self.trouble = None
        return self.number + 1

    @property
    def text(self) -> str:
        return "".join(self._texts).rstrip("\r\n")

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = self._file.readline(MAX_LINE_BYTES + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise ImportUsageError(
                f"line {self.number} is longer than {MAX_LINE_BYTES:,} bytes: is this a CSV file, with line ends "
                "LF or CR LF?"
            )
        starts_at = self.bytes_read
        self.bytes_read += len(raw)
        self.sha256.update(raw)
        if self.number == 1 and raw.startswith(BOM):
            self._encoding = "utf-8"  # the mark says so, whatever the option says
            raw, starts_at = raw[3:], 3
        try:
            text = raw.decode(self._encoding)
        except UnicodeDecodeError as error:
            text = raw.decode(self._encoding, "replace")
            self.trouble = self.trouble or (
                f"is not {self._encoding}: byte 0x{raw[error.start]:02x} on line {self.number}, byte "
                f"{starts_at + error.start + 1:,} of the file; save the file as UTF-8 or give --encoding, "
                "for example --encoding cp1252 or cp932"
            )
        self._texts.append(text)
        return text


@contextlib.contextmanager
def open_source(name: str, encoding: str, delimiter: str) -> Iterator[Source]:
    """Open a file, or standard input for `-`. What can't be read twice is first copied to a temporary file."""
    with contextlib.ExitStack() as stack:
        if name == "-":
            file: BinaryIO = sys.stdin.buffer
        else:
            try:
                file = stack.enter_context(open(name, "rb"))  # noqa: PTH123  # may be /dev/fd/63
            except OSError as error:
                raise ImportUsageError(f"{name} can't be read: {error.strerror or error}") from None
        if not file.seekable():
            spool = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, spool, MAX_LINE_BYTES)
            file = spool
        source = Source(file, encoding, delimiter)
        _refuse_other_formats(file, name)
        yield source


def _refuse_other_formats(file: BinaryIO, name: str) -> None:
    file.seek(0)
    start = file.read(4_096)
    if not start:
        raise ImportUsageError(f"{name} is empty; its first line must name the columns")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ImportUsageError(f"{name} is UTF-16; convert it first: iconv -f utf-16 -t utf-8")
    for parity, encoding in ((1, "utf-16le"), (0, "utf-16be")):  # ASCII in it has a NUL in each other place
        if len(start) > 1 and start[parity::2].count(0) > len(start) // 4:
            raise ImportUsageError(f"{name} looks like UTF-16; convert it first: iconv -f {encoding} -t utf-8")
    if start.startswith(b"PK\x03\x04"):
        raise ImportUsageError(f"{name} is a spreadsheet or a zip file; save it as CSV (UTF-8)")
    if start.startswith(b"\x1f\x8b"):
        raise ImportUsageError(f"{name} is compressed; give it like this: zcat FILE | duecourse import … -")


def _checked_encoding(name: str) -> str:
    try:
        if "\n,".encode(name) != b"\n,":
            raise ImportUsageError(f"--encoding {name} can't be read by lines; convert: iconv -f {name} -t utf-8")
    except LookupError:
        raise ImportUsageError(
            f"--encoding {name} is not an encoding; common ones are utf-8, cp1252, iso8859-15, cp932, euc_jp"
        ) from None
    return name


def _checked_delimiter(text: str) -> str:
    delimiter = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(delimiter) != 1 or delimiter in '"\r\n\0' or delimiter.isalnum():
        raise ImportUsageError(f"--delimiter {text!r} is not one character like , or ; (or the word tab)")
    return delimiter


def _in_words(error: csv.Error) -> str:
    said = str(error)
    return next((words for known, words in _CSV_TROUBLE if known in said), f"is not CSV: {said}")
