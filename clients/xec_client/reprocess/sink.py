"""Parts of results: written aside, synced, read back, and published without replacing anything.

The order is what makes a part safe: content durable, then the name, then the name durable, and
only then a row in the manifest. Whoever finds the name finds the whole part, and of two that write
the same part the first one gets the name; the other finds the same content there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xec.errors import FileError
from xec.io.result_digest import Content, content_of
from xec.io.results import ResultWriter, open_result_writer
from xec_client.reprocess.aside import aside_of
from xec_client.reprocess.failures import OutputError
from xec_client.reprocess.files import Files

Fill = Callable[[ResultWriter], int]
"""Writes all rows of a part and tells how many."""


@dataclass(frozen=True, slots=True)
class Part:
    """A published part.

    Args:
        name: of the file, in the folder of its lineage.
        first: its first entry in the input.
        rows: events that it holds.
        sha256: digest of its content (`xec.io.result_digest`), not of the file.
        size: bytes of the file.
    """

    name: str
    first: int
    rows: int
    sha256: str
    size: int


@contextmanager
def _output(doing: str) -> Iterator[None]:
    """Turn the refusals of the operating system into an error that ends all runs."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{doing}: {error.strerror or error}.") from error


class Sink:
    """The folder of a lineage.

    Args:
        folder: where parts go; it exists.
        files: the disk.
    """

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder = folder
        self._files = files

    def published(self, name: str, first: int) -> Part | None:
        """The part of this name, read back, or None.

        Raises:
            OutputError: there is a file of this name that is not a whole part.
        """
        path = self.folder / name
        return self._described(path, path, first) if path.exists() else None

    def publish(self, name: str, first: int, fill: Fill, *, source: str, synthetic: bool) -> Part:
        """Write a part, or find that another writer was faster with the same content.

        Args:
            name: of the part.
            first: its first entry in the input.
            fill: writes the rows.
            source: name of the input.
            synthetic: whether its events were simulated.

        Raises:
            OutputError: the disk refuses, what was read back differs, or there is another part
                of this name.
            XecError: as `fill`.
        """
        path = self.folder / name
        aside = aside_of(path)
        try:
            rows = self._write(aside, path, fill, source, synthetic)
            part = self._described(aside, path, first)
            if part.rows != rows:
                raise OutputError(
                    f"{path}: {part.rows} of {rows} rows were read back: check the disk."
                )
            self._link(aside, path, part)
        finally:
            # What a failing disk leaves is removed by the next start (`sweep`).
            with suppress(OSError):
                self._files.unlink(aside)
        with _output(f"{path} cannot be published"):
            self._files.sync_folder(self.folder)
        return part

    def _write(self, aside: Path, path: Path, fill: Fill, source: str, synthetic: bool) -> int:
        @contextmanager
        def output(_: Path) -> Iterator[BinaryIO]:
            file = self._files.create(aside)
            try:
                yield file
                self._files.sync(file)
                file.close()
            finally:
                with suppress(OSError):  # a full disk refuses again: already reported
                    file.close()

        writer = open_result_writer(aside, source=source, synthetic=synthetic, output=output)
        rows = 0
        try:
            with _output(f"{path} cannot be written"), writer:
                rows = fill(writer)
        except FileError as error:
            if isinstance(error, OutputError) or str(aside) not in str(error):
                raise  # of the input
            raise OutputError(str(error).replace(str(aside), str(path))) from error
        return rows

    def _link(self, aside: Path, path: Path, part: Part) -> None:
        with _output(f"{path} cannot be published"):
            try:
                self._files.link(aside, path)
            except FileExistsError:
                other = self._described(path, path, part.first)
                if other.sha256 != part.sha256:
                    raise OutputError(
                        f"{path} is there already with other content, although its lineage is "
                        "the same: move it away and report it."
                    ) from None

    def _described(self, file: Path, path: Path, first: int) -> Part:
        try:
            content: Content = content_of(file)
            size = file.stat().st_size
        except (FileError, OSError) as error:
            raise OutputError(
                f"{path} is no whole part: move it away, and it is made anew ({error})"
            ) from error
        return Part(path.name, first, content.rows, content.sha256, size)
