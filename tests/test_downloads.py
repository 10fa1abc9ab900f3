"""What servers send in place of a file is told from data."""

from pathlib import Path

import pytest

from dpot_scale.downloads import check_download
from dpot_scale.errors import DataError


def said(folder: Path, name: str, content: bytes) -> str:
    """Return what is said of a file with this content, without its path."""
    file = folder / name
    file.write_bytes(content)
    try:
        check_download(file)
    except DataError as error:
        return str(error).removeprefix(f"{file} ")
    return ""


PAGES = [
    (b"<html>not found</html>", ""),
    (
        b"\xef\xbb\xbf\n  <!-- x -->\n<!DOCTYPE HTML PUBLIC ...><H1>Gone</H1>",
        " (Gone)",
    ),
    (b'<?xml version="1.0"?>\n<!DOCTYPE html><html></html>', ""),
    (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
        b"<Message>Access Denied</Message></Error>",
        "",
    ),
    (b'{"error": "Repository not found"}', " (Repository not found)"),
    (b'\n{"status":"ERROR","code":404,"message":"Not\\nfound"}', " (Not found; ERROR)"),
]


@pytest.mark.parametrize("name", ["a.h5", "164687", "readme"])
@pytest.mark.parametrize(("content", "words"), PAGES)
def test_a_page_or_an_error_whatever_its_name(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    assert said(tmp_path, name, content).startswith(f"is a web page: the download failed{words}")


def test_the_words_of_a_page_are_few(tmp_path: Path) -> None:
    sentence = said(tmp_path, "a.pt", b"<html><title>" + b"word " * 100 + b"</title>")
    assert len(sentence) < 300
    assert "word..." in sentence or "word wo" in sentence


@pytest.mark.parametrize("text", [b"Entry not found", b"Not Found\n", b'["quota exceeded"]'])
def test_a_short_text_is_an_answer_only_where_its_name_promises_data(
    text: bytes, tmp_path: Path
) -> None:
    assert "is a web page: the download failed" in said(tmp_path, "model.PTH", text)
    for name in ("readme.txt", "layout.yaml", "LICENSE"):
        assert said(tmp_path, name, text) == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer"),
    ],
)
def test_what_else_is_no_data(content: bytes, words: str, tmp_path: Path) -> None:
    assert said(tmp_path, "a.mat", content).startswith(words)


@pytest.mark.parametrize(
    "content",
    [
        b"\x89HDF\r\n\x1a\n" + bytes(88),
        b"MATLAB 5.0 MAT-file, Platform: GLNXA64",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'",
        b"PK\x03\x04" + bytes(40),
        b"\x80\x02}q\x00.",
        bytes(1000),
        bytes(range(256)),
        b"{'error': 1}" + bytes(9),
        b'{"vel_top": 1.0, "density": 1}',
        b'<?xml version="1.0"?><Xdmf Version="3.0"></Xdmf>',
    ],
)
def test_data_and_what_belongs_to_them_is_let_through(content: bytes, tmp_path: Path) -> None:
    assert said(tmp_path, "a", content) == ""
