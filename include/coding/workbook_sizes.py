"""What a workbook (.xlsx) would need of memory, measured before it is opened.

A workbook is a zip archive of XML files: a few megabytes can unpack to terabytes, a sheet with two cells can span
billions of them, and a text that many cells share is copied for each. The reader of workbooks holds all cells of a
sheet in memory, and ends the process if there is too little. So the directory of the archive is checked first, and
then the XML of each sheet, in blocks and without a tree of its elements. All numbers are upper bounds.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

#: Largest sum of the unpacked sizes. A full sheet of a million rows with thirty columns has about 1 GiB.
MAX_UNPACKED_BYTES = 2 << 30
#: Largest ratio of the unpacked to the packed size of a large file in the archive. Sheets have less than 50.
MAX_UNPACKED_RATIO, LARGE_MEMBER_BYTES = 200, 16 << 20
#: Limits of the archive's directory. A workbook has one file for each sheet, picture or chart, and a few more.
MAX_MEMBERS, MAX_DIRECTORY_BYTES = 10_000, 4 << 20
#: Limits of Excel itself.
MAX_ROWS, MAX_COLUMNS = 1_048_576, 16_384
#: Longest tag or text in the XML. Excel's own cells have at most 32,767 characters.
MAX_ROW_CHARACTERS = 1 << 20
#: Largest number of texts that cells share. A full sheet of a million rows with four columns has a quarter of it.
MAX_SHARED_TEXTS = 1 << 24
#: Largest list of sheets, of their files and of styles.
MAX_LIST_BYTES = 8 << 20
#: Bytes that the reader needs (measured with python-calamine 0.9.1): for each cell that has a value, for each cell
#: between the first and the last one, and for each text beside its characters.
_VALUE_BYTES, _CELL_BYTES, _TEXT_BYTES = 40, 32, 16
_BLOCK_BYTES = 4 << 20

_NAME = rb"<(?:[\w.-]+:)?"
_CELL = re.compile(_NAME + rb"c[\s/>]")
_ROW = re.compile(_NAME + rb"row(?=[\s/>])(?:[^<>]*?\sr\s*=\s*[\"']([0-9]{1,20})[\"'])?")
_VALUE = re.compile(_NAME + rb"(?:v|is)[\s/>]")
_POSITION = re.compile(_NAME + rb"c\s[^<]*?\br\s*=\s*[\"']([A-Za-z]*)([0-9]+)[\"']")
_SHARED = re.compile(rb"\bt\s*=\s*[\"']s[\"'][^<]*" + _NAME + rb"v[^>]*>\s*([0-9]{1,9})\s*<")
_ELEMENTS_WITH_END = re.compile(_NAME + rb"(?:c|row|sheetData)(?:\s[^>]*)?(?<!/)>")
_ENDS = re.compile(rb"</(?:[\w.-]+:)?(?:c|row|sheetData)\s*>")
_MARKUP = re.compile(rb"<[^>]*>")
_ITEM_END = re.compile(rb"</(?:[\w.-]+:)?si>|" + _NAME + rb"si\s*/>")
_ROW_END = re.compile(rb"</(?:[\w.-]+:)?(?:row|si)>")
_DIALECTS = ("http://schemas.openxmlformats.org/", "http://purl.oclc.org/ooxml/")


class WorkbookError(Exception):
    """A workbook cannot be read. The message is a clause that says why, without anything of its content."""


@dataclass(frozen=True)
class SheetSize:
    """How large a sheet is: its rows and columns, and the bytes that a reader needs."""

    rows: int
    columns: int
    bytes: int


class WorkbookSizes:
    """The sizes of the sheets of a workbook, each measured when it is asked for.

    :raises WorkbookError: the archive is no workbook, or too much would have to be unpacked
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        _check_directory(archive)
        # The reader of workbooks ignores the case of these names.
        self._paths = {_normalize(member.filename): member.filename for member in archive.infolist()}
        relations = self._read_xml("xl/_rels/workbook.xml.rels")
        targets: dict[str, tuple[str, str]] = {}
        for relation in relations:
            if relation.get("TargetMode") != "External":
                targets[relation.attrib["Id"]] = (relation.attrib["Type"], _resolve(relation.attrib["Target"]))
        if len(targets) < len([item for item in relations if item.get("TargetMode") != "External"]):
            raise WorkbookError("two of its sheets have the same number")
        self._members: dict[str, str] = {}
        for element in self._read_xml("xl/workbook.xml").iter():
            if element.tag.rpartition("}")[2] == "sheet":
                key = next((value for name, value in element.attrib.items() if name.endswith("}id")), "")
                kind, target = targets.get(key, ("", ""))
                if element.attrib["name"] in self._members:
                    raise WorkbookError("two of its sheets have the same name")
                if kind.endswith("/worksheet"):
                    self._members[element.attrib["name"]] = target
        self._text_bytes = self._measure_shared_texts()

    @property
    def shared_bytes(self) -> int:
        """Bytes that the texts need that cells share."""
        return int(self._text_bytes.sum()) + (_TEXT_BYTES + 24) * len(self._text_bytes)

    def measure(self, sheet: str) -> SheetSize:
        """Return the size of a sheet.

        :raises WorkbookError: it is missing, or above the limits of Excel
        """
        member = self._members.get(sheet)
        if member is None or _normalize(member) not in self._paths:
            raise WorkbookError(f"it has no data for its sheet {sheet!r}")
        bounds = _Bounds()
        texts = np.zeros(len(self._text_bytes) + 1, np.int64)
        for block in self._read_blocks(member):
            bounds.add(block)
            numbers = np.array(_SHARED.findall(block), dtype=np.int64)
            texts += np.bincount(np.minimum(numbers, len(self._text_bytes)), minlength=len(texts))
        if not bounds.is_complete:
            raise WorkbookError("it is not a complete workbook (.xlsx)")
        text_bytes = bounds.text_bytes + int(texts[:-1] @ self._text_bytes) + _TEXT_BYTES * bounds.values
        rows, columns = bounds.rows, bounds.columns
        if rows > MAX_ROWS or columns > MAX_COLUMNS:
            raise WorkbookError(
                f"its sheet {sheet!r} has {rows} rows and {columns} columns, above {MAX_ROWS} and {MAX_COLUMNS}"
            )
        size = _CELL_BYTES * rows * columns + max(_VALUE_BYTES * bounds.values + bounds.text_bytes, text_bytes)
        return SheetSize(rows, columns, size + self.shared_bytes)

    def _measure_shared_texts(self) -> Any:
        """Return the number of bytes of each text that cells share."""
        member = "xl/sharedStrings.xml"
        sizes = array("q", [0])
        if _normalize(member) in self._paths:
            for block in self._read_blocks(member):
                for item in re.split(_ITEM_END, block):
                    sizes[-1] += len(_MARKUP.sub(b"", item))
                    sizes.append(0)
                sizes.pop()  # the last item goes on in the next block
                if len(sizes) > MAX_SHARED_TEXTS:
                    raise WorkbookError(f"it has more than {MAX_SHARED_TEXTS} texts")
        return np.array(sizes, dtype=np.int64)

    def _read_xml(self, member: str) -> ElementTree.Element:
        path = self._paths.get(_normalize(member))
        if path is None:
            raise WorkbookError("it is not a complete workbook (.xlsx)")
        if self._archive.getinfo(path).file_size > MAX_LIST_BYTES:
            raise WorkbookError(f"its list of sheets is above {MAX_LIST_BYTES} bytes")
        data = self._archive.read(path)
        _check_markup(data)
        return ElementTree.fromstring(data)

    def _read_blocks(self, member: str) -> Iterator[bytes]:
        """Yield an XML file in blocks that end between two elements."""
        rest = b""
        with self._archive.open(self._paths[_normalize(member)]) as file:
            while block := file.read(_BLOCK_BYTES):
                _check_markup(block)
                data = rest + block
                ends = [match.end() for match in _ROW_END.finditer(data)][-1:]
                end = ends[0] if ends else data.rfind(b"<")
                if len(data) - max(end, data.rfind(b"<")) > MAX_ROW_CHARACTERS:
                    raise WorkbookError(f"it has a text above {MAX_ROW_CHARACTERS} characters")
                if len(data) - end > 4 * _BLOCK_BYTES:
                    end = data.rfind(b"<")
                yield data[:end]
                rest = data[end:]
        yield rest


class _Bounds:
    """Upper bounds of what the blocks of a sheet contain."""

    def __init__(self) -> None:
        self.values = self.text_bytes = self.rows = 0
        self._row = self._last_column = 0
        self._missing_ends = 0
        self._cells_in_row = self._most_cells_in_row = 0

    @property
    def columns(self) -> int:
        """The last column, and those cells after it that do not say where they are."""
        return self._last_column + self._most_cells_in_row

    @property
    def is_complete(self) -> bool:
        """Whether every row and cell ends. The reader of workbooks ignores that one does not, and loses cells."""
        return self._missing_ends == 0

    def add(self, block: bytes) -> None:
        self._missing_ends += len(_ELEMENTS_WITH_END.findall(block)) - len(_ENDS.findall(block))
        for number in _ROW.findall(block):
            self._row = int(number) if number else self._row + 1
            self.rows = max(self.rows, self._row)
        positions = _POSITION.findall(block)
        self.rows = max([self.rows, *(int(number[:20]) for number in {number for _, number in positions})])
        self._last_column = max([self._last_column, *map(_count_columns, {letters for letters, _ in positions})])
        self.values += len(_VALUE.findall(block))
        if max(map(len, _MARKUP.split(block))) > MAX_ROW_CHARACTERS:
            raise WorkbookError(f"it has a text above {MAX_ROW_CHARACTERS} characters")
        self.text_bytes += len(_MARKUP.sub(b"", block))
        if len(_CELL.findall(block)) > len(positions):
            self._count_cells_of_rows(block)

    def _count_cells_of_rows(self, block: bytes) -> None:
        for number, row in enumerate(_ROW.split(block)[::2]):  # between its groups
            self._cells_in_row = (0 if number else self._cells_in_row) + len(_CELL.findall(row))
            self._most_cells_in_row = max(self._most_cells_in_row, self._cells_in_row)


def _count_columns(letters: bytes) -> int:
    """Return the number of the column with this name, such as 28 for `AB`; a name can have any length."""
    count = 0
    for letter in letters[:8].upper():
        count = count * 26 + letter - 64
    return count


def _resolve(target: str) -> str:
    return posixpath.normpath(target.lstrip("/") if target.startswith("/") else posixpath.join("xl", target))


def _normalize(name: str) -> str:
    return name.lower().replace("\\", "/")


def _check_markup(block: bytes) -> None:
    if b"<!DOCTYPE" in block or b"<!ENTITY" in block:
        raise WorkbookError("its XML defines entities")
    if b"\0" in block:
        raise WorkbookError("its XML is not in UTF-8")


class BoundedFile(io.FileIO):
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
    if len({_normalize(member.filename) for member in members}) < len(members):
        raise WorkbookError("its zip archive has two files of the same name")
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
