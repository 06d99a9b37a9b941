"""Delimited text: one line per row, fields between separators. Read as a lazy query, in bounded memory.

    1::1193::5::978300760       separator "::", columns user, item, rating, time (the file has no header)

Polars scans what is UTF-8 and has a separator of one byte. Lines with a longer separator are split inside the query;
text in another encoding is decoded block by block. All fields are text: what is a number is decided on all rows.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import IO

import polars as pl
from polars.io.plugins import register_io_source

from guiderec.errors import ConfigError, DataError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
"""Endings that say what separates the fields."""
UNSAID = (".txt", ".dat", ".data")
"""Endings of delimited text that do not."""
OTHERS = (".jsonl", ".ndjson", ".parquet")
"""Endings of files that are something else."""

_USUAL = ("::", "\t", "|", ";", ",")
_BLOCK = 1 << 23
"""Characters that are decoded at a time."""
BROKEN = (OSError, EOFError, zlib.error)
"""What a damaged archive raises."""


@dataclass(frozen=True)
class Delimited:
    """A file of delimited text."""

    path: Path
    separator: str
    quoted: bool
    """Whether a field in double quotes may hold separators and line ends; elsewhere a quote is a character."""
    columns: tuple[str, ...] | None
    """Names of the fields of a file without a header; None: the first line names them."""
    encoding: str
    options: str = "--"
    """How the options of the command line begin that say how to read this file."""

    @property
    def first_line(self) -> int:
        """Number of the first line with values."""
        return 2 if self.columns is None else 1

    def scan(self) -> pl.LazyFrame:
        """The rows, as text; an empty field is null. DataError where the names do not fit the first line."""
        if self.columns is not None and len(self.first_record()) != len(self.columns):
            self.check()
        if codecs.lookup(self.encoding).name not in ("utf-8", "utf-8-sig"):
            return self._decoded()
        if len(self.separator.encode()) > 1:
            return _split(self.path, self._names(), self.separator, skip=self.first_line - 1)
        if self.columns is None:
            return pl.scan_csv(
                self.path, infer_schema=False, separator=self.separator, quote_char=self._quote, glob=False
            )
        return self._without_header(self.path, self.columns)

    def read(self) -> pl.DataFrame:
        """The whole table. DataError where it cannot be read, or its lines differ in their number of fields."""
        try:
            table = self.scan().collect()
        except (pl.exceptions.PolarsError, *BROKEN) as error:
            self.check()
            raise DataError(f"{self.path}: cannot be read ({str(error).splitlines()[0]}).") from None
        if table[table.columns[-1]].null_count():
            self.check()
        return table

    def check(self) -> None:
        """Nothing, or the DataError for lines that are not text or have another number of fields than the first.

        This looks at every line in Python: it explains what Polars refused, or that a last field is empty.
        """
        try:
            self._check_encoding()
            self._check_widths()
        except BROKEN:
            return

    def line(self, row: int) -> int:
        """Number of the line where a row (from 0) begins."""
        if self.quoted:
            try:
                return next(islice(self._records(), row + self.first_line - 1, None))[0]
            except (StopIteration, DataError, *BROKEN):
                pass
        return row + self.first_line

    def first_record(self) -> list[str]:
        """The fields of the first line; none where it cannot be read as such, which `check` explains."""
        try:
            with self._text(errors="replace") as text:
                if self.quoted:
                    return next(csv.reader(text, delimiter=self.separator), [])
                return text.readline().rstrip("\r\n").split(self.separator)
        except UnicodeError:  # of encodings that know no replacement, such as UTF-16 without its mark
            self._check_encoding()
        except csv.Error:
            pass
        return []

    def _names(self) -> tuple[str, ...]:
        if self.columns is not None:
            return self.columns
        names = tuple(self.first_record())
        if not names:
            self.check()
            raise DataError(f"{self.path}: the first line is empty or cannot be read, and no header.")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(
                f"{self.path}: the column '{twice}' stands there more than once.", hint="rename one of them."
            )
        return names

    @property
    def _quote(self) -> str | None:
        return '"' if self.quoted else None

    def _without_header(self, source: Path | bytes, names: Sequence[str], *, skip: int = 0) -> pl.LazyFrame:
        return pl.scan_csv(
            source,
            has_header=False,
            skip_rows=skip,
            schema=dict.fromkeys(names, pl.String),
            missing_columns="insert",
            separator=self.separator,
            quote_char=self._quote,
            glob=False,
        )

    def _text(self, errors: str = "strict") -> IO[str]:
        encoding = "utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding
        if self.path.suffix.lower() == ".gz":
            return gzip.open(self.path, "rt", encoding=encoding, errors=errors, newline="\n")
        return self.path.open(encoding=encoding, errors=errors, newline="\n")

    def _decoded(self) -> pl.LazyFrame:
        """The rows of a file that is not UTF-8, decoded as they are needed."""
        names = self._names()

        def rows(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            skip = self.first_line - 1
            for block in self._blocks():
                if len(self.separator.encode()) > 1:
                    query = _split(block, names, self.separator, skip=skip)
                else:
                    query = self._without_header(block, names, skip=skip)
                part = self._collected(query if n_rows is None else query.head(n_rows))
                skip = 0
                n_rows = None if n_rows is None else n_rows - len(part)
                part = part if predicate is None else part.filter(predicate)
                yield part if with_columns is None else part.select(with_columns)
                if n_rows == 0:
                    return

        return register_io_source(rows, schema=dict.fromkeys(names, pl.String))

    def _collected(self, query: pl.LazyFrame) -> pl.DataFrame:
        try:
            return query.collect()
        except pl.exceptions.PolarsError as error:
            self.check()
            raise DataError(f"{self.path}: cannot be read ({str(error).splitlines()[0]}).") from None

    def _blocks(self) -> Iterator[bytes]:
        """The text in UTF-8, in pieces of whole lines."""
        rest = ""
        try:
            with self._text() as text:
                while piece := text.read(_BLOCK):
                    rest += piece
                    if end := _last_line_end(rest, quoted=self.quoted):
                        yield rest[:end].encode()
                        rest = rest[end:]
            if rest:
                yield rest.encode()
        except (UnicodeError, *BROKEN) as error:
            self.check()
            raise DataError(f"{self.path}: cannot be read ({error}).") from None

    def _check_encoding(self) -> None:
        """DataError for lines that are not text in the encoding."""
        name = codecs.lookup(self.encoding).name
        hint = f'name the encoding it has, for example encoding="latin-1" ({self.options}encoding latin-1).'
        try:
            with self._text(errors="surrogateescape") as text:
                lines, wrong = 0, []
                for lines, line in enumerate(text, 1):
                    if found := _UNDECODED.search(line):
                        wrong.append((lines, found))
        except UnicodeError as error:
            raise DataError(f"{self.path}: the text is not {name} ({error}).", hint=hint) from None
        if wrong:
            number, found = wrong[0]
            byte = ord(found[0][-1]) - 0xDC00
            before = ascii(found.string[max(0, found.start() - 20) : found.start()])
            raise DataError(
                f"{self.path}: {len(wrong):,} of {lines:,} lines are not {name} (first: line {number}, byte {byte:#x}"
                f" after {before}).",
                hint=hint,
            )

    def _check_widths(self) -> None:
        """DataError for lines with another number of fields than the names. Empty lines are not looked at."""
        names = self.first_record() if self.columns is None else self.columns
        lines, wrong = 0, []
        for number, fields in self._records():
            if fields:
                lines += 1
                wrong += [(number, fields)] if names and fields != len(names) else []
        if not wrong:
            return
        number, fields = wrong[0]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        quoting = f"a field that holds {self.separator!r} stands in double quotes; " if self.quoted else ""
        raise DataError(
            f"{self.path}: {len(wrong):,} of {lines:,} lines do not have the {len(names)} fields {shown} between"
            f" {self.separator!r} (first: line {number} has {fields}).",
            hint=f"{quoting}mend these lines, or say how to read them ({self.options}separator,"
            f" {self.options}columns).",
        )

    def _records(self) -> Iterator[tuple[int, int]]:
        """First line and number of fields of every row, the header included; an empty line has none."""
        with self._text(errors="replace") as text:
            if not self.quoted:
                for number, line in enumerate(text, 1):
                    row = line.rstrip("\r\n")
                    yield number, row.count(self.separator) + 1 if row else 0
                return
            reader, number = csv.reader(text, delimiter=self.separator, strict=True), 1
            try:
                for record in reader:
                    yield number, len(record)
                    number = reader.line_num + 1
            except csv.Error as error:
                if "field limit" in str(error):  # longer than Python's reader takes: no fault of the file
                    return
                raise DataError(
                    f"{self.path}: line {number}: a double quote is not closed, or a quote or carriage return stands"
                    f" inside a field ({error}).",
                    hint='a quote inside a quoted field is written twice: "like ""this""".',
                ) from None


_UNDECODED = re.compile("[\udc80-\udcff]")


def delimited(
    path: Path,
    *,
    separator: str | None = None,
    columns: Sequence[str] | None = None,
    encoding: str = "utf-8",
    options: str = "--",
) -> Delimited | None:
    """The file as delimited text, or None where its ending says that it is something else.

    Raises
    ------
    ConfigError
        For a separator, names or an encoding that cannot be, and for any of them where the file is something else.
    DataError
        When nothing says what separates the fields.
    """
    _check_options(separator, columns, encoding)
    kind = ending(path)
    if kind not in SEPARATORS and kind not in UNSAID and (separator is None or kind in OTHERS):
        refuse_options(str(path), separator, columns, encoding)
        return None
    if separator is None and kind in UNSAID:
        raise _unsaid(path, kind, encoding, options)
    chosen = SEPARATORS[kind] if separator is None else separator
    quoted = len(chosen) == 1 and (kind == ".csv" or chosen in ",;")
    return Delimited(path, chosen, quoted, None if columns is None else tuple(columns), encoding, options)


def refuse_options(what: str, separator: str | None, columns: Sequence[str] | None, encoding: str) -> None:
    """ConfigError for options of delimited text that were given for something else."""
    given = {"separator": separator, "columns": columns, "encoding": None if encoding == "utf-8" else encoding}
    if named := [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"{what} is not delimited text: {', '.join(named)} cannot apply to it.")


def ending(path: Path) -> str:
    """The ending that says the format: `.csv` of `log.csv.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def likely_separator(line: str) -> str | None:
    """What probably separates the fields of a line."""
    return next((separator for separator in _USUAL if separator in line), None)


def _check_options(separator: str | None, columns: Sequence[str] | None, encoding: str) -> None:
    if separator is not None and (not separator or set(separator) & set('\r\n"')):
        raise ConfigError(f"separator is {separator!r}, expected characters that are no line end and no double quote.")
    if columns is not None:
        if isinstance(columns, str):
            raise ConfigError(f"columns is the text {columns!r}, expected a list of names, one per field.")
        names = list(columns)
        if len(names) < 2 or not all(names) or len(set(names)) < len(names):
            raise ConfigError(f"columns is {names}, expected at least two names, none empty and none twice.")
    try:
        "".encode(encoding)
    except (LookupError, ValueError):
        raise ConfigError(
            f"encoding is {encoding!r}, which is none that Python knows.", hint="for example utf-8, latin-1, cp1252."
        ) from None


def _unsaid(path: Path, kind: str, encoding: str, options: str) -> DataError:
    """The error for a file whose ending does not say what separates the fields."""
    try:
        line = Delimited(path, "\n", False, None, encoding).first_record()[0]
    except BROKEN as error:
        return DataError(f"{path}: cannot be read ({error}).")
    separator = likely_separator(line)
    shown = "..." if separator is None else separator
    typed = quote(ascii(shown)[1:-1])
    return DataError(
        f"{path}: the ending '{kind}' does not say what separates the fields; the first line is {line[:60]!r}.",
        hint=f"separator={shown!r} ({options}separator {typed}); if the first line is no header, name the fields too:"
        f" columns=[...] ({options}columns A,B,...).",
    )


def _split(source: Path | bytes, names: Sequence[str], separator: str, *, skip: int) -> pl.LazyFrame:
    """Lines split at a separator of several bytes; of a line with another number of fields the last one is null."""
    lines = pl.scan_lines(source, glob=False).slice(skip)
    fields = pl.col("line").str.strip_prefix("\ufeff").str.strip_suffix("\r").str.split(separator)
    cells = [pl.col("fields").list.get(place, null_on_oob=True) for place in range(len(names))]
    cells[-1] = pl.when(pl.col("fields").list.len() == len(names)).then(cells[-1])
    filled = [pl.when(cell != "").then(cell).alias(name) for name, cell in zip(names, cells, strict=True)]
    return lines.select(fields.alias("fields")).select(filled)


def _last_line_end(text: str, *, quoted: bool) -> int:
    """Where the last whole row ends; 0 where none does. Line ends between quotes end no row."""
    end = len(text)
    open_quotes = text.count('"') if quoted else 0
    while (end := text.rfind("\n", 0, start := end)) >= 0:
        open_quotes -= text.count('"', end, start) if quoted else 0
        if open_quotes % 2 == 0:
            return end + 1
    return 0
