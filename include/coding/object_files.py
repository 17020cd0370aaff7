"""Objects of S3 as sources: they are copied into the engine's folder, and read there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from include.coding.errors import SourceError, StagingError
from include.coding.file_scan import refuse_change
from include.coding.plan import Plan
from include.coding.source_access import SourceAccess

#: What identifies the content of an object.
_VERSION_FIELDS = ("ETag", "size", "LastModified")


def copy_object(uri: str, plan: Plan, access: SourceAccess, target: Path) -> None:
    """Copy an object.

    :raises SourceError: there is no such object, the connection may not read it, or it changed while it was copied
    :raises StagingError: the object storage cannot be reached, or the disk is full
    """
    if access.open_storage is None:
        raise SourceError(f"source {uri!r} cannot be read: this deployment has no object storage; use a file:// URI")
    connection = plan.read_options.connection
    try:
        fs = access.open_storage(uri, connection)
        before = _identify(fs, uri)
        fs.get_file(uri, str(target))
        if _identify(fs, uri) != before:
            raise refuse_change(plan)
    except FileNotFoundError:
        raise SourceError(f"source {uri!r}: there is no such object; check its name and bucket") from None
    except PermissionError:
        raise SourceError(
            f"source {uri!r}: the connection {connection or 'staging_default'!r} may not read it; check its"
            " permissions, or name another one as `connection` in `read_options`"
        ) from None
    except (OSError, BotoCoreError, ClientError) as error:  # not chained, because it can contain an address
        raise StagingError(
            f"source {uri!r} cannot be copied ({type(error).__name__}): check the connection"
            f" {connection or 'staging_default'!r}, and free disk space in {target.parent}"
        ) from None


def _identify(fs: Any, uri: str) -> tuple[Any, ...]:
    fs.invalidate_cache()
    info = fs.info(uri)
    return tuple(info.get(name) for name in _VERSION_FIELDS)
