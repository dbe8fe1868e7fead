"""Tables on disk: written completely or not at all; damage becomes an error of one line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scalewise.errors import UserError
from scalewise.files import whole

_COLUMNS = b"scalewise.columns"


class DamagedFile(UserError):
    """A file that is damaged, or that holds something else than expected."""


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table with checksums, completely or not at all (see `files.whole`).

    Raises:
        WriteError: the system could not write the file.
    """
    # parquet has checksums for its pages, but not for the names and types of the columns
    noted = table.replace_schema_metadata({_COLUMNS: _columns(table)})
    with whole(path) as aside:
        pq.write_table(noted, aside, compression="zstd", write_page_checksum=True)


def read_table(path: Path) -> pa.Table:
    """Read a table.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not a parquet file, or it was cut short or changed.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedFile(f"{path} is damaged: {reason}") from None
    noted = (table.schema.metadata or {}).get(_COLUMNS)  # only our own files have it
    table = table.replace_schema_metadata(None)
    if noted is not None and noted != _columns(table):
        raise DamagedFile(f"{path} is damaged: its columns are not those that were written")
    return table


def _columns(table: pa.Table) -> bytes:
    return "\n".join(f"{field.name}: {field.type}" for field in table.schema).encode()
