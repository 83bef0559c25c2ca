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
from xec.io.output import Output
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


@dataclass(slots=True)
class Draft:
    """A part whose rows are written, still open: another thread may publish it.

    Args:
        sink: that it belongs to.
        path: its name to be.
        aside: the hidden name of its file.
        first: its first entry in the input.
        writer: open.
        rows: that were written.
    """

    sink: Sink
    path: Path
    aside: Path
    first: int
    writer: ResultWriter
    rows: int = 0

    def publish(self) -> Part:
        """Close, sync, read back and publish; see `Sink.publish`."""
        return self.sink.finish(self)

    def abandon(self) -> None:
        """Close and remove what was written."""
        try:
            self._close(FileError("abandoned"))
        finally:
            self.sink.discard(self.aside)

    def _close(self, error: BaseException) -> None:
        with suppress(FileError, OSError):
            self.writer.__exit__(type(error), error, error.__traceback__)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Tell apart errors of the disk from those of the input; either closes the writer."""
        try:
            with _output(f"{self.path} cannot be written"):
                yield
        except BaseException as error:
            self._close(error)
            if not isinstance(error, FileError) or isinstance(error, OutputError):
                raise
            if str(self.aside) not in str(error):
                raise  # of the input
            raise OutputError(str(error).replace(str(self.aside), str(self.path))) from error


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
        return self.fill(name, first, fill, source=source, synthetic=synthetic).publish()

    def fill(self, name: str, first: int, fill: Fill, *, source: str, synthetic: bool) -> Draft:
        """Write the rows of a part and leave it open; see `publish`."""
        path = self.folder / name
        aside = aside_of(path)
        writer = open_result_writer(
            aside, source=source, synthetic=synthetic, output=self._output_of(aside)
        )
        draft = Draft(self, path, aside, first, writer)
        try:
            with draft.writing():
                draft.rows = fill(writer.__enter__())
        except BaseException:
            self.discard(aside)
            raise
        return draft

    def finish(self, draft: Draft) -> Part:
        """Publish what was filled: the second half of `publish`."""
        path, aside = draft.path, draft.aside
        try:
            with draft.writing():
                draft.writer.__exit__(None, None, None)
            part = self._described(aside, path, draft.first)
            if part.rows != draft.rows:
                raise OutputError(
                    f"{path}: {part.rows} of {draft.rows} rows were read back: check the disk."
                )
            self._link(aside, path, part)
        finally:
            self.discard(aside)
        with _output(f"{path} cannot be published"):
            self._files.sync_folder(self.folder)
        return part

    def discard(self, aside: Path) -> None:
        """Remove a file that was written aside; one that a failing disk leaves, `sweep` removes."""
        with suppress(OSError):
            self._files.unlink(aside)

    def _output_of(self, aside: Path) -> Output:
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

        return output

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
