"""File systems as `pyarrow.fs` opens them by address, the files that a pattern names, and what
stands in the way, in words.

Of Hadoop's file system pyarrow leaves some things to whoever asks. It takes no account from
hdfs://name@host and has no hdfs:///, the file system of Hadoop's own settings; it calls "not found"
whatever a NameNode did not answer. Hadoop's client waits a quarter of an hour for a machine that is
not there, and the Java in it ends the process on Ctrl-C.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

HADOOP = ("hdfs", "viewfs")
JAVA = "LIBHDFS_OPTS"  # what Java starts with
SECONDS = 10.0  # that a NameNode has to take a connection
INTERNAL = 255  # errno of libhdfs for what has none
PLAIN = "/%:@!$&'()*+,;=~"  # of a path, what an address may hold as it is
NEEDS = (
    "each machine that reads hdfs:// needs Java, libhdfs.so and Hadoop's jars and settings: "
    "JAVA_HOME, HADOOP_HOME or ARROW_LIBHDFS_DIR, and CLASSPATH (hadoop classpath --glob)"
)


class Unreached(OSError):
    """A file system that cannot be asked: why, and the next step."""

    def __init__(self, why: str, next: str) -> None:
        super().__init__(why)
        self.next = next


def opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises
    ------
    OSError : Unreached of Hadoop's. pyarrow.ArrowException : of what is no address.
    """
    from pyarrow import fs

    place, mark, options = address.partition("?")
    scheme, _, rest = place.partition("://")
    host, slash, path = rest.partition("/")
    if scheme in HADOOP:
        return _hadoop(scheme, host, slash + path, options)
    found: tuple[Any, str] = fs.FileSystem.from_uri(
        f"{scheme}://{host}{slash}{quote(path, PLAIN)}{mark}{options}"
    )
    return found


def _hadoop(scheme: str, host: str, path: str, options: str) -> tuple[Any, str]:
    from pyarrow import fs

    user, _, host = host.rpartition("@")
    named = dict(parse_qsl(options)) | ({"user": unquote(user)} if user else {})
    if host:
        _answered(host)
    _leave_signals()
    try:
        if not host:
            account = {name: named.pop(name, None) for name in ("user", "kerb_ticket")}
            return fs.HadoopFileSystem("default", **account, extra_conf=named), unquote(path)
        mark = "?" if named else ""
        found: tuple[Any, str] = fs.FileSystem.from_uri(
            f"{scheme}://{host}{quote(path, PLAIN)}{mark}{urlencode(named, quote_via=quote)}"
        )
        return found
    except OSError as error:
        unset = "" if os.environ.get("CLASSPATH") else ", and CLASSPATH is not set"
        raise Unreached(f"{str(error).partition(chr(10))[0]}{unset}", NEEDS) from None


def _answered(host: str) -> None:
    """Raises Unreached unless something takes a connection there. A host without a port may be a
    name in Hadoop's settings, which its client looks up."""
    try:
        at = urlsplit(f"//{host}")
        if at.port is not None:
            socket.create_connection((at.hostname or "", at.port), SECONDS).close()
    except (OSError, ValueError) as error:
        raise Unreached(
            f"no NameNode answers at {host}: {type(error).__name__}",
            "check that it runs, its address, and that this machine reaches it",
        ) from None


def _leave_signals() -> None:
    """Java takes no signals: Ctrl-C is for this process to answer."""
    given = os.environ.get(JAVA, "").split()
    if "-Xrs" not in given:
        os.environ[JAVA] = " ".join([*given, "-Xrs"])


def about(system: Any, path: str) -> Any:
    """Type, size and time of what is at a path.

    Raises
    ------
    FileNotFoundError. OSError : what pyarrow takes for it, of Hadoop's.
    """
    found = system.get_file_info([path])[0]
    if found.type.name == "NotFound":
        if system.type_name == "hdfs":
            system.open_input_file(path).close()  # says what is the matter
        raise FileNotFoundError(path)
    return found


def reason(error: Exception) -> str:
    """Why something was not read or written, without what stands in it."""
    if isinstance(error, Unreached):
        return str(error)
    if isinstance(error, OSError) and error.errno == INTERNAL:
        return "Hadoop's client has written why to standard error"
    return type(error).__name__


def files_of(where: str, suffixes: tuple[str, ...]) -> tuple[str, Any, list[str]]:
    """Address of the folder, its file system, and the files that a path, a folder or a pattern
    names: those of a folder with these suffixes.

    What begins with "." or "_" counts only where it is named: Hadoop and Spark begin so what is
    half written or no data.

    Raises
    ------
    OSError, pyarrow.ArrowException : as `opened`.
    """
    from pyarrow import fs

    if "://" not in where:
        where = "file://" + str(Path(where).absolute())
    scheme, _, rest = where.partition("://")
    rest, _, options = rest.partition("?") if scheme != "file" else (rest, "", "")
    wild = rest.find("*")
    folder = rest[:wild].rpartition("/")[0] if wild >= 0 else rest
    address = Path(folder).as_uri() if scheme == "file" else f"{scheme}://{folder}"
    base = address + (f"?{options}" if options else "")
    system, root = opened(base)
    try:
        if about(system, root).type == fs.FileType.File:
            return base, system, [root]
    except FileNotFoundError:
        return base, system, []
    tail = rest[len(folder) :].lstrip("/") if wild >= 0 else "**/*"
    deep = fs.FileSelector(root, recursive="/" in tail)
    fits = re.compile(_pattern(tail if scheme == "file" else unquote(tail)))
    found = sorted(f.path for f in system.get_file_info(deep) if f.type == fs.FileType.File)
    named = [p for p in found if fits.fullmatch(p[len(root) :].lstrip("/"))]
    return base, system, [p for p in named if wild >= 0 or p.lower().endswith(suffixes)]


def _pattern(glob: str) -> str:
    """A pattern whose * stays within a folder, and whose **/ is any folders."""
    steps = {"**/": "(?:(?![._])[^/]+/)*", "*": "(?!(?<![^/])[._])[^/]*"}
    return "".join(steps.get(one) or re.escape(one) for one in re.split(r"(\*\*/|\*)", glob))
