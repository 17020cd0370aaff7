"""Excel workbooks (.xlsx) as streams: what a reader needs of memory does not depend on the size of a workbook.

A workbook is a zip archive of XML files, and a few megabytes can unpack to terabytes. So the sizes in the archive's
directory are checked before anything is unpacked (:mod:`zipfile` never unpacks more than they say), and the XML is
parsed in blocks, without a tree of its elements. Only the rows of the first sheet are read, and of these only the
cells of the needed columns are kept.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.parsers import expat

from openpyxl.styles.numbers import BUILTIN_FORMATS, is_date_format, is_timedelta_format
from openpyxl.utils.datetime import MAC_EPOCH, WINDOWS_EPOCH, from_excel, from_ISO8601

#: Largest sum of the unpacked sizes. A full sheet of a million rows with thirty columns has about 1 GiB.
MAX_UNPACKED_BYTES = 2 << 30
#: Largest ratio of the unpacked to the packed size of a large file in the archive. Sheets have less than 50.
MAX_UNPACKED_RATIO, LARGE_MEMBER_BYTES = 200, 16 << 20
#: Limits of the archive's directory. A workbook has one file for each sheet, picture or chart, and a few more.
MAX_MEMBERS, MAX_DIRECTORY_BYTES = 10_000, 4 << 20
#: Limits of Excel itself.
MAX_ROWS, MAX_COLUMNS = 1_048_576, 16_384
#: Longest text of a cell, and longest row of needed cells. Excel's own cells have at most 32,767 characters.
MAX_ROW_CHARACTERS = 1 << 20
#: Limits of the XML, far above what Excel writes: the longest tag, the depth, and the different names.
MAX_TAG_BYTES, MAX_DEPTH, MAX_NAMES = 1 << 20, 64, 10_000
MAX_STYLES, MAX_FORMAT_CHARACTERS = 100_000, 255
_BLOCK_BYTES = 1 << 16

#: The content of a cell: its text, or the number of a shared text.
Cell = str | int


class WorkbookError(Exception):
    """A workbook cannot be read. The message is a clause that says why, without anything of its content."""


class Workbook:
    """The first sheet of a workbook, which can be read several times."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        _check_directory(archive)
        root = posixpath.normpath(self._find_target("_rels/.rels", "/officeDocument") or "xl/workbook.xml")
        folder, name = posixpath.split(root)
        relations = _RelationReader()
        _parse(self._archive, posixpath.join(folder, "_rels", f"{name}.rels"), relations)
        sheets = _SheetListReader()
        _parse(self._archive, root, sheets)
        self._epoch = MAC_EPOCH if sheets.has_1904_dates else WINDOWS_EPOCH
        targets = {
            key: posixpath.normpath(posixpath.join("/", folder, target))[1:] for key, _, target in relations.all
        }
        kinds = {key: kind for key, kind, _ in relations.all}
        names = set(self._archive.namelist())
        paths = [
            targets[key]
            for key in sheets.relations
            if kinds.get(key, "").endswith("/worksheet") and targets[key] in names
        ]
        if not paths:
            raise WorkbookError("it has no sheet")
        self._sheet = paths[0]
        parts = {kind.rpartition("/")[2]: targets[key] for key, kind, _ in relations.all if targets[key] in names}
        self._shared_texts = parts.get("sharedStrings")
        self._styles = _StyleReader()
        if "styles" in parts:
            _parse(self._archive, parts["styles"], self._styles)

    def read_header(self) -> dict[int, Cell]:
        """Return the cells of the first row, by the position of their columns."""
        for row, cells in self._read_rows(None):
            return cells if row == 1 else {}
        return {}

    def read_rows(self, positions: Collection[int]) -> Iterator[tuple[int, dict[int, Cell]]]:
        """Yield the number of each row below the first, up to the last one with a value, with its cells in columns.

        :param positions: of the columns, counted from 0
        """
        last_row = 1
        for row, cells in self._read_rows(frozenset(positions)):
            if row > 1:
                yield from ((missing, {}) for missing in range(last_row + 1, row))
                yield row, cells
                last_row = row

    def read_shared_texts(self) -> Iterator[str]:
        """Yield the texts that cells share, in the order of their numbers."""
        if self._shared_texts is not None:
            reader = _SharedTextReader()
            for _ in _parse_blocks(self._archive, self._shared_texts, reader):
                yield from reader.take()

    def _read_rows(self, positions: frozenset[int] | None) -> Iterator[tuple[int, dict[int, Cell]]]:
        """Yield the rows that have a value in any column."""
        reader = _RowReader(positions, self._styles, self._epoch)
        for _ in _parse_blocks(self._archive, self._sheet, reader):
            yield from reader.take()

    def _find_target(self, path: str, kind: str) -> str | None:
        if path not in self._archive.namelist():
            return None
        reader = _RelationReader()
        _parse(self._archive, path, reader)
        return next((target.lstrip("/") for _, type_, target in reader.all if type_.endswith(kind)), None)


@contextmanager
def open_workbook(path: Path) -> Iterator[Workbook]:
    """Yield a workbook, and raise what the readers of its archive and its XML raise in the block as our error.

    :raises WorkbookError: the file is no workbook, or too much would have to be unpacked
    """
    try:
        with _BoundedFile(path, "rb") as file, zipfile.ZipFile(file) as archive:
            yield Workbook(archive)
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, KeyError, ValueError, OSError):
        # not chained, because it can quote a cell
        raise WorkbookError("it is not a complete workbook (.xlsx) whose first sheet is a table") from None


class _BoundedFile(io.FileIO):
    """A file that refuses to read more at once than the directory of an archive may have."""

    def read(self, size: int | None = -1, /) -> Any:
        data = super().read(
            MAX_DIRECTORY_BYTES + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY_BYTES + 1)
        )
        if data and len(data) > MAX_DIRECTORY_BYTES:
            raise WorkbookError("the directory of its zip archive is too large")
        return data


def _check_directory(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise WorkbookError(f"its zip archive has {len(members)} files, above {MAX_MEMBERS}")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise WorkbookError("its zip archive has another compression than that of Excel")
    if any(member.flag_bits & 1 for member in members):
        raise WorkbookError("it is encrypted")
    unpacked_bytes = sum(member.file_size for member in members)
    is_bomb = any(
        member.file_size > max(LARGE_MEMBER_BYTES, MAX_UNPACKED_RATIO * member.compress_size) for member in members
    )
    if unpacked_bytes > MAX_UNPACKED_BYTES or is_bomb:
        raise WorkbookError(
            f"it would unpack to {unpacked_bytes} bytes; at most {MAX_UNPACKED_BYTES} are read, and at most"
            f" {MAX_UNPACKED_RATIO} times the packed size of a file in it"
        )


def _parse(archive: zipfile.ZipFile, path: str, reader: _XmlReader) -> None:
    for _ in _parse_blocks(archive, path, reader):
        pass


def _parse_blocks(archive: zipfile.ZipFile, path: str, reader: _XmlReader) -> Iterator[None]:
    """Let a reader handle the elements of an XML file; yield after each block.

    The parser keeps a tag until it ends, and each different name for ever, so both are bounded.
    """
    parser = expat.ParserCreate(intern=None)  # names are not collected
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start_element, reader.end_element
    parser.CharacterDataHandler = reader.add_text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    size = 0
    with archive.open(path) as file:
        while block := file.read(_BLOCK_BYTES):
            parser.Parse(block, False)
            size += len(block)
            if size - parser.CurrentByteIndex > MAX_TAG_BYTES:
                raise WorkbookError(f"it has a tag above {MAX_TAG_BYTES} bytes")
            yield
    parser.Parse(b"", True)
    yield


def _refuse_doctype(*_: Any) -> None:
    raise WorkbookError("its XML defines entities")


class _XmlReader:
    """Handles the elements of an XML file by their names without a prefix, within the limits of the XML."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._depth = 0
        self._text: list[str] | None = None  # of the element that is being read; None if it is not needed
        self._characters = 0

    def start_element(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._names.add(name)
        self._names.update(attributes)
        if self._depth > MAX_DEPTH or len(self._names) > MAX_NAMES:
            raise WorkbookError("its XML is nested too deeply, or has too many names")
        self.start(name.rpartition(":")[2], attributes)

    def end_element(self, name: str) -> None:
        self._depth -= 1
        self.end(name.rpartition(":")[2])

    def add_text(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)
            self._characters += len(text)
            if self._characters > MAX_ROW_CHARACTERS:
                raise WorkbookError(f"{self.place} is above {MAX_ROW_CHARACTERS} characters")

    #: What is too long, in a message.
    place = "a text in it"

    def start(self, name: str, attributes: dict[str, str]) -> None:
        raise NotImplementedError

    def end(self, name: str) -> None:
        raise NotImplementedError


class _RelationReader(_XmlReader):
    """The relations of a file to others: their ids, types and targets."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, str, str]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Relationship" and attributes.get("TargetMode") != "External":
            if len(self.all) == MAX_MEMBERS:
                raise WorkbookError("it has too many files")
            self.all.append((attributes["Id"], attributes["Type"], attributes["Target"]))

    def end(self, name: str) -> None:
        pass


class _SheetListReader(_XmlReader):
    """The ids of the relations of the sheets, and how dates are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.relations: list[str] = []
        self.has_1904_dates = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "sheet":
            if len(self.relations) == MAX_MEMBERS:
                raise WorkbookError("it has too many sheets")
            keys = [value for key, value in attributes.items() if key.endswith(":id")]
            self.relations += keys[:1]
        elif name == "workbookPr":
            self.has_1904_dates = attributes.get("date1904") in ("1", "true")

    def end(self, name: str) -> None:
        pass


class _StyleReader(_XmlReader):
    """The numbers of the styles whose cells are dates or durations."""

    def __init__(self) -> None:
        super().__init__()
        self.dates: set[int] = set()
        self.durations: set[int] = set()
        self._formats: dict[int, str] = {}
        self._is_in_list, self._style = False, 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "numFmt" and len(self._formats) < MAX_STYLES:
            self._formats[int(attributes["numFmtId"])] = attributes["formatCode"][:MAX_FORMAT_CHARACTERS]
        elif name == "cellXfs":
            self._is_in_list = True
        elif name == "xf" and self._is_in_list and self._style < MAX_STYLES:
            number = int(attributes.get("numFmtId", 0))
            code = self._formats.get(number, BUILTIN_FORMATS.get(number))
            if code and is_date_format(code):
                self.dates.add(self._style)
            if code and is_timedelta_format(code):
                self.durations.add(self._style)
            self._style += 1

    def end(self, name: str) -> None:
        if name == "cellXfs":
            self._is_in_list = False


class _TextReader(_XmlReader):
    """Base of the readers of texts, which can consist of runs; how a text is pronounced does not belong to it."""

    def __init__(self) -> None:
        super().__init__()
        self._is_pronunciation = False

    def _start_text(self, name: str) -> None:
        if name == "rPh":
            self._is_pronunciation = True
        elif name == "t" and not self._is_pronunciation:
            self._text = self._text or []

    def _take_text(self) -> str:
        text, self._text = "".join(self._text or []), None
        return text


class _SharedTextReader(_TextReader):
    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []
        self._runs: list[str] = []

    def take(self) -> list[str]:
        """Return the texts that were read since the last call."""
        texts, self._texts = self._texts, []
        return texts

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "si":
            self._runs, self._characters = [], 0
        else:
            self._start_text(name)

    def end(self, name: str) -> None:
        if name == "t":
            self._runs.append(self._take_text())
        elif name == "rPh":
            self._is_pronunciation = False
        elif name == "si":
            self._texts.append("".join(self._runs).replace("x005F_", ""))


class _RowReader(_TextReader):
    """The rows with a value in any column, with the cells of some columns.

    :param positions: of these columns; None for all
    """

    def __init__(self, positions: frozenset[int] | None, styles: _StyleReader, epoch: Any) -> None:
        super().__init__()
        self._positions, self._styles, self._epoch = positions, styles, epoch
        self._rows: list[tuple[int, dict[int, Cell]]] = []
        self._row, self._column, self._has_value = 0, -1, False
        self._cells: dict[int, Cell] = {}
        self._kind, self._style = "n", ""
        self._value: list[str] = []

    def take(self) -> list[tuple[int, dict[int, Cell]]]:
        """Return the rows that were read since the last call."""
        rows, self._rows = self._rows, []
        return rows

    @property
    def place(self) -> str:  # type: ignore[override]
        return f"row {self._row}"

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "c":
            self._column = _find_position(attributes["r"]) if "r" in attributes else self._column + 1
            if not self._column < MAX_COLUMNS:
                raise WorkbookError(f"row {self._row} has more than {MAX_COLUMNS} columns")
            self._kind, self._style = attributes.get("t", "n"), attributes.get("s", "")
            self._value = []
        elif name == "v":
            if self._kind != "inlineStr":
                self._text = []
        elif name == "row":
            row = int(attributes.get("r", self._row + 1))
            if not self._row < row <= MAX_ROWS:
                raise WorkbookError(f"its rows are not in order, or more than {MAX_ROWS}")
            self._row, self._column, self._has_value = row, -1, False
            self._cells, self._characters = {}, 0
        elif self._kind == "inlineStr":
            self._start_text(name)

    def end(self, name: str) -> None:
        if name in ("v", "t"):
            if self._text is not None:
                self._value.append(self._take_text())
        elif name == "c":
            self._add_cell("".join(self._value))
        elif name == "rPh":
            self._is_pronunciation = False
        elif name == "row" and self._has_value:
            self._rows.append((self._row, self._cells))

    def _add_cell(self, value: str) -> None:
        self._has_value = self._has_value or value != ""
        is_needed = self._positions is None or self._column in self._positions
        if is_needed and value and self._kind != "e":
            cell = self._convert(value)
            if cell is not None:
                self._cells[self._column] = cell
        elif not is_needed:
            self._characters -= len(value)

    def _convert(self, value: str) -> Cell | None:
        match self._kind:
            case "s":
                return int(value)
            case "b":
                return str(bool(int(value)))
            case "d":
                return str(from_ISO8601(value))
            case "n":
                return self._convert_number(value)
            case _:
                return value

    def _convert_number(self, value: str) -> str | None:
        """Return a number, a date or a duration as text; None for a date that there is not, as Excel shows it."""
        number = float(value) if any(character in value for character in ".eE") else int(value)
        style = int(self._style or 0)
        if style in self._styles.dates:
            try:
                return str(from_excel(number, self._epoch, timedelta=style in self._styles.durations))
            except (OverflowError, ValueError):
                return None
        is_whole = isinstance(number, float) and number.is_integer()  # not for an infinite one
        return str(int(number) if is_whole else number)


def _find_position(reference: str) -> int:
    """Return the position of the column in a reference such as `AB12`, counted from 0."""
    position = 0
    for character in reference[:4]:
        if not "A" <= character <= "Z":
            break
        position = position * 26 + ord(character) - 64
    return position - 1
