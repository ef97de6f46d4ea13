"""Ways in which the files of a corpus go bad, each with what a reader may still make of them."""

import gzip
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

AUDIO = (".wav", ".flac", ".mp3", ".ogg")

NUMBERS = ("nan", "inf", "-inf", "-1", "1e999", "0x10", "1,5", "9" * 400, "½")

_NUMBER = re.compile(rb"(?<![\w.+-])\d+(?:\.\d+)?(?![\w.])")


@dataclass
class Corruption:
    """What was done to a file.

    Attributes:
        what: What was done, for messages.
        path: The file.
        lines: Lines that are not what they were; as many utterances may have other texts.
        gone: Lines that are missing as if they had never been there, which no reader can know.
        cut: Whether the last line ends too early, which a reader can see.
        harmless: Whether everything must be as it was, if it is read at all.
        number: Whether a number is another one.
        whole: Whether nothing is left of the file that is what it was.
        absent: Whether there is no such file any more.
        shifts: Whether there are more or fewer lines now.
    """

    what: str
    path: Path
    lines: int = 0
    gone: int = 0
    cut: bool = False
    harmless: bool = False
    number: bool = False
    whole: bool = False
    absent: bool = False
    shifts: bool = False

    def __repr__(self) -> str:
        return f"{self.path.name} {self.what}"


@dataclass
class _Text:
    """A text that is being corrupted."""

    content: bytes
    suffix: str
    rng: Random
    note: Corruption = field(default_factory=lambda: Corruption("", Path()))

    @property
    def lines(self) -> list[bytes]:
        return self.content.split(b"\n")

    def some_line(self) -> int:
        """Return the number of a line that is not empty."""
        return self.rng.choice([number for number, line in enumerate(self.lines) if line] or [0])

    def put(self, number: int, line: bytes) -> bytes:
        lines = self.lines
        lines[number] = line
        self.note.lines = 1 if number else len(lines)  # the first one may name the columns
        return b"\n".join(lines)

    def insert(self, what: bytes) -> bytes:
        """Put something into the middle of a line."""
        number = self.some_line()
        line = self.lines[number]
        at = self.rng.randrange(len(line) + 1)
        while line[at : at + 1] and 0x80 <= line[at] < 0xC0:  # not within a character
            at -= 1
        self.note.what += f" {what!r} into line {number + 1} at {at}"
        return self.put(number, line[:at] + what + line[at:])


def cut_off(text: _Text) -> bytes:
    return _cut(text, text.rng.randrange(len(text.content)))


def cut_within_a_character(text: _Text) -> bytes:
    inside = [at for at, byte in enumerate(text.content) if 0x80 <= byte < 0xC0]
    return _cut(text, text.rng.choice(inside)) if inside else cut_off(text)


def cut_at_a_line_end(text: _Text) -> bytes:
    ends = [match.end() for match in re.finditer(b"\n", text.content[:-1])]
    return _cut(text, text.rng.choice(ends)) if ends else cut_off(text)


def _cut(text: _Text, at: int) -> bytes:
    kept, rest = text.content[:at], text.content[at:]
    after = rest.partition(b"\n")[2]
    text.note.cut = not kept.endswith(b"\n")
    text.note.lines, text.note.shifts = int(text.note.cut), True
    lost = len(after.removesuffix(b"\n").split(b"\n")) if after else 0
    text.note.gone = lost + (not text.note.cut)
    text.note.what += f" after byte {at}"
    if not kept.strip():
        text.note.gone, text.note.cut = 0, False
    return kept


def delete_a_line(text: _Text) -> bytes:
    number, lines = text.some_line(), text.lines
    text.note.gone, text.note.shifts = 1, True
    text.note.what += f" {number + 1}"
    return b"\n".join(lines[:number] + lines[number + 1 :])


def duplicate_a_line(text: _Text) -> bytes:
    number, lines = text.some_line(), text.lines
    text.note.what += f" {number + 1}"
    text.note.lines, text.note.shifts = 1, True
    return b"\n".join(lines[: number + 1] + lines[number:])


def a_field_more(text: _Text) -> bytes:
    return text.insert(_separator(text))


def a_field_less(text: _Text) -> bytes:
    separator, number = _separator(text), text.some_line()
    fields = text.lines[number].split(separator)
    del fields[text.rng.randrange(len(fields))]
    text.note.what += f" in line {number + 1}"
    return text.put(number, separator.join(fields))


def swap_fields(text: _Text) -> bytes:
    separator, number = _separator(text), text.some_line()
    fields = text.lines[number].split(separator)
    text.rng.shuffle(fields)
    text.note.what += f" of line {number + 1}"
    return text.put(number, separator.join(fields))


def swap_columns(text: _Text) -> bytes:
    separator = _separator(text)
    table = [line.split(separator) for line in text.lines]
    count = max(map(len, table))
    order = text.rng.sample(range(count), count)
    text.note.whole = True
    return b"\n".join(separator.join([row[column] for column in order] if len(row) == count else row) for row in table)


def stray_carriage_return(text: _Text) -> bytes:
    return text.insert(b"\r")


def windows_line_ends(text: _Text) -> bytes:
    text.note.harmless = True
    return text.content.replace(b"\n", b"\r\n")


def odd_line_end(text: _Text) -> bytes:
    return text.insert(text.rng.choice(["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"]).encode())


def nul(text: _Text) -> bytes:
    return text.insert(b"\0" * text.rng.choice([1, 1, 7]))


def quote(text: _Text) -> bytes:
    return text.insert(text.rng.choice([b'"', b"'", b'""', b'\\"', b"{", b"}", b"<", b">"]))


def byte_order_mark(text: _Text) -> bytes:
    text.note.harmless = True
    return b"\xef\xbb\xbf" + text.content


def latin_1(text: _Text) -> bytes:
    return text.insert("é".encode("latin-1"))


def another_number(text: _Text) -> bytes:
    found = list(_NUMBER.finditer(text.content))
    if not found:
        return quote(text)
    number = text.rng.choice(found)
    value = text.rng.choice(NUMBERS)
    line = text.content.count(b"\n", 0, number.start()) + 1
    text.note.what += f" in line {line}: {number[0].decode()} → {value[:20]}"
    text.note.lines, text.note.number = 1 if line > 1 else len(text.lines), True
    return text.content[: number.start()] + value.encode() + text.content[number.end() :]


def another_byte(text: _Text) -> bytes:
    places = [at for at, byte in enumerate(text.content) if byte != 10]
    at, byte = text.rng.choice(places), text.rng.choice([byte for byte in range(256) if byte != 10])
    text.note.what += f" at {at}: {text.content[at]:#x} → {byte:#x}"
    text.note.lines = 1 if b"\n" in text.content[:at] else len(text.lines)
    return text.content[:at] + bytes([byte]) + text.content[at + 1 :]


TEXT_WAYS: tuple[Callable[[_Text], bytes], ...] = (
    cut_off,
    cut_within_a_character,
    cut_at_a_line_end,
    delete_a_line,
    duplicate_a_line,
    a_field_more,
    a_field_less,
    swap_fields,
    swap_columns,
    stray_carriage_return,
    windows_line_ends,
    odd_line_end,
    nul,
    quote,
    byte_order_mark,
    latin_1,
    another_number,
    another_byte,
)


def _separator(text: _Text) -> bytes:
    found = {b: text.content.count(b) for b in (b"\t", b",", b" ")}
    return b"\t" if found[b"\t"] else b"," if text.suffix == ".csv" else b" "


def truncated(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(1, len(content))]


def lying_header(content: bytes, rng: Random) -> bytes:
    """Return audio whose header claims another length: of wav, flac and mp3; other files lose their end."""
    longer = rng.choice([1.5, 3.0, 1000.0])
    factor = rng.choice([0.25, 0.5, longer]) if content[:4] == b"RIFF" else longer
    if content[:4] == b"RIFF" and (at := content.find(b"data")) > 0:
        size = min(2**32 - 2, round(struct.unpack_from("<I", content, at + 4)[0] * factor) // 4 * 4)
        while content[at + 8 + size : at + 12 + size] == bytes(4):  # silence looks like the end of a file
            size += 4
        return content[: at + 4] + struct.pack("<I", size) + content[at + 8 :]
    if content[:4] == b"fLaC":
        packed = int.from_bytes(content[18:26], "big")
        total = round((packed & (2**36 - 1)) * factor) & (2**36 - 1)
        return content[:18] + (packed >> 36 << 36 | total).to_bytes(8, "big") + content[26:]
    for mark in (b"Xing", b"Info"):
        if (at := content.find(mark, 0, 200)) > 0:
            frames = struct.unpack_from(">I", content, at + 8)[0]
            return content[: at + 8] + struct.pack(">I", round(frames * factor)) + content[at + 12 :]
    return content[: round(len(content) * 0.6)]


def noise_inside(content: bytes, rng: Random) -> bytes:
    start = rng.randrange(min(1000, len(content) // 2), len(content))  # not within the header
    return content[:start] + rng.randbytes(min(rng.randrange(1, 2000), len(content) - start)) + content[start + 2000 :]


AUDIO_WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (truncated, lying_header, lying_header, noise_inside)


@contextmanager
def restored(*paths: Path) -> Iterator[None]:
    """Put files back at the end, whatever stands in their place then."""
    contents = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in contents.items():
            if path.is_dir():
                shutil.rmtree(path)
            path.write_bytes(content)


def corrupt(path: Path, rng: Random, may_go: bool = True) -> Corruption:
    """Make a file bad in one way, and return what was done; ``may_go`` allows for it to be gone altogether."""
    note = Corruption("", path)
    way = rng.randrange(0 if may_go else 3, 8 if path.suffix in AUDIO else 20)
    if not path.is_file():
        note.what = "left as it is"
    elif way == 0:
        note.what = "removed"
        path.unlink()
    elif way == 1:
        note.what = "emptied"
        path.write_bytes(b"")
    elif way == 2:
        note.what = "replaced by a folder"
        path.unlink()
        path.mkdir()
    elif not path.stat().st_size:
        note.what = "left as it is"
    elif way == 3:
        note.what = "replaced by random bytes"
        path.write_bytes(rng.randbytes(rng.choice([1, 40, 5000])))
    elif path.suffix in AUDIO:
        if way == 4:
            note.what = "replaced by a text"
            path.write_text("<html>404 not found</html>\n" * rng.choice([1, 100]))
        else:
            change = rng.choice(AUDIO_WAYS)
            note.what = change.__name__
            path.write_bytes(change(path.read_bytes(), rng))
    else:
        _corrupt_text(path, rng, note)
    note.whole, note.absent = note.whole or way < 4, way in (0, 2)
    note.lines = 10**6 if note.whole and path.suffix not in AUDIO else note.lines
    return note


def _corrupt_text(path: Path, rng: Random, note: Corruption) -> None:
    change = rng.choice(TEXT_WAYS)
    note.what = change.__name__
    content = path.read_bytes()
    packed = path.suffix == ".gz" and rng.random() < 0.7
    try:
        text = _Text(gzip.decompress(content) if packed else content, path.suffix, rng, note)
    except (OSError, EOFError):
        note.what = "left as it is"
        return
    damaged = change(text)
    if path.suffix == ".gz" and not packed:  # a line of what is packed is no line of the file
        note.lines, note.gone, note.cut, note.harmless = 10**6, 0, False, False
    path.write_bytes(gzip.compress(damaged, 6) if packed else damaged)
