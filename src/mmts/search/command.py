"""What `mmts search` does: print the results, write them as a page, or serve a page to this machine only."""

from pathlib import Path

from rich.cells import cell_len, set_cell_size

from mmts.console import console, print_json
from mmts.data.records import values_of
from mmts.errors import InputError
from mmts.files import atomic_write, check_file_path, why_missing
from mmts.report.wording import clean
from mmts.search.query import Hit, open_searcher
from mmts.search.serve import Answer, render, serve


def search(
    run: Path,
    query: str | None,
    image: Path | None,
    *,
    k: int,
    as_json: bool = False,
    page: Path | None = None,
    port: int | None = None,
    folder: Path | None = None,
    checkpoint: str = "best",
) -> None:
    """Print the k items of a run's index nearest to a text or an image; with a `port`, serve a page instead.

    page: also write a self-contained page to this file. folder: of the index, by default RUN/index. checkpoint: the one
    that made the index.
    """
    if (query is not None) + (image is not None) + (port is not None) != 1:
        raise InputError("give one of: a text, --image FILE, --serve")
    if page is not None:
        check_file_path(page)
    searcher = open_searcher(run, folder, checkpoint)
    if port is not None:
        serve(searcher, port, k)
        return
    if image is not None and not image.exists():
        raise InputError(f"{image} {why_missing(image)}")
    title = str(image if query is None else query)
    hits = searcher.by_text(title, k) if image is None else searcher.by_file(image, k)
    if page is not None:
        with atomic_write(page, "w") as file:
            file.write(render(searcher, Answer(title, hits), stands_alone=True))
    if as_json:
        asked = {"text" if image is None else "image": title}
        about = {"index": str(searcher.index.folder), "num_items": len(searcher.index), "exact": searcher.is_exact}
        print_json({"query": asked, **about, "hits": [hit.to_json() for hit in hits]})
        return
    _print_hits(hits)
    if page is not None:
        console.print(f"page: {page}")


def _print_hits(hits: list[Hit]) -> None:
    """Print one line per hit; on a terminal too narrow for that, caption and labels go below the path."""
    rows = []
    for hit in hits:
        caption = clean(hit.item.caption) if hit.item.caption != hit.item.path else ""
        named = {name: ", ".join(values_of(label)) for name, label in hit.item.labels.items()}
        labels = ", ".join(f"{clean(name, 40)}: {clean(text, 40)}" for name, text in named.items())
        rows.append([f"{hit.rank:>3}", f"{hit.score:.3f}", hit.medium.place, caption, labels])
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(set_cell_size, row, widths)).rstrip() for row in rows]
    if console.is_terminal and max(map(cell_len, lines)) > console.width:
        below = "\n" + " " * (widths[0] + widths[1] + 4)
        lines = ["  ".join(row[:3]) + "".join(below + cell for cell in row[3:] if cell) for row in rows]
    console.print("\n".join(lines))
