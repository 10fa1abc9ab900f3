"""The parts of a report as values: Markdown and the page each render them in their way."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """The title of the parts that follow."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under a header; all columns but the first hold numbers, or what stands for one."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """A list of short texts."""

    texts: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure that lies beside the report."""

    file: str
    caption: str


Block = str | Heading | Table | Items | Picture  # a text is a paragraph


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading with all that stands below it."""

    title: str
    blocks: Sequence[Block]


def markdown(blocks: Iterable[Block]) -> str:
    """Return blocks in Markdown, with an empty line between them."""
    return "\n\n".join(map(_markdown, blocks))


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"## {block.text}"
        case Table():
            return _table(block)
        case Items():
            return "\n".join(f"- {_line(text)}" for text in block.texts)
        case Picture():
            return f"![{block.caption}]({block.file})"
        case str():
            return block


def _table(table: Table) -> str:
    rule = ["---", *["--:"] * (len(table.header) - 1)]
    rows = [[_cell(cell) for cell in cells] for cells in (table.header, *table.rows)]
    rows.insert(1, rule)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _cell(text: str) -> str:
    """Return a text that ends neither its cell nor its row."""
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split()) if "\n" in text else text


def sections(blocks: Iterable[Block]) -> Iterator[Section]:
    """Yield blocks by the headings they stand below; those before the first have an empty title."""
    title, below = "", list[Block]()
    for block in blocks:
        if isinstance(block, Heading):
            if title or below:
                yield Section(title=title, blocks=below)
            title, below = block.text, []
        else:
            below.append(block)
    if title or below:
        yield Section(title=title, blocks=below)
