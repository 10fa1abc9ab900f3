"""Files that are no data but what a server sent in their place."""

import json
import re
from pathlib import Path

from dpot_scale.errors import DataError

LFS_POINTER = b"version https://git-lfs"
LOOKED_AT = 64 * 2**10  # bytes; an answer that says what went wrong is shorter
SHORT_TEXT = 2 * 2**10  # bytes; a longer text may be data of some kind
MARK = b"\xef\xbb\xbf"  # with which some texts in UTF-8 begin
PAGE = re.compile(rb"\s*(<!--.*?-->\s*|<\?xml[^>]*>\s*)*<(!doctype\s+html|html|head|body)\b", re.S)
XML_ERROR = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<error\b", re.S)
TITLE = re.compile(r"<(title|h1|message|code)\b[^>]*>\s*(.*?)\s*</\1>", re.S | re.I)
# Of the keys of an answer in JSON, those that say what went wrong.
REASONS = ("message", "error", "errors", "detail", "title", "reason", "status")
# Of data; a README beside them is no failed download.
SUFFIXES = {
    ".mat",
    ".h5",
    ".hdf5",
    ".nc",
    ".npy",
    ".npz",
    ".pt",
    ".pth",
    ".pkl",
    ".zip",
    ".safetensors",
}
SHOWN = 100  # characters


def check_download(path: Path) -> None:
    """Refuse a file that is empty, a git-lfs pointer or a web page.

    Raises:
        DataError: it is one of these.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(LOOKED_AT)
    if not start:
        raise DataError(f"{path} is empty; download it again")
    if start.startswith(LFS_POINTER):
        raise DataError(
            f"{path} is a git-lfs pointer, not the data; run `git lfs pull` where it was cloned"
        )
    said = _said(path, start.removeprefix(MARK))
    if said is not None:
        raise DataError(
            f"{path} is a web page: the download failed{said and f' ({said})'}; remove it, look "
            "whether its address is right and asks for a login, and download it again"
        )


def _said(path: Path, start: bytes) -> str | None:
    """Return what a server says in place of a file; None if it may be data."""
    text = start.decode("utf-8", errors="replace")
    if PAGE.match(start.lower()) or XML_ERROR.match(start.lower()):
        return _shown("; ".join(words for _, words in TITLE.findall(text)))
    if start.lstrip()[:1] in (b"{", b"["):
        return _said_in_json(text, is_named_as_data=path.suffix.lower() in SUFFIXES)
    is_text = "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text)
    if is_text and len(start) < SHORT_TEXT and path.suffix.lower() in SUFFIXES:
        return _shown(text)
    return None


def _said_in_json(text: str, *, is_named_as_data: bool) -> str | None:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or more of it than was looked at
        return None
    reasons = [answer[key] for key in REASONS if key in answer] if isinstance(answer, dict) else []
    if not reasons and not is_named_as_data:
        return None
    return _shown("; ".join(str(reason) for reason in reasons) or text)


def _shown(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}..."
