"""Where a page shows what a program measured: between two marks, which a new measurement is put between."""

from pathlib import Path


def put(text: str, path: Path, mark: str) -> None:
    """Replace what stands between `<!-- measured: MARK -->` and its end. ValueError where they are not there."""
    start, end = f"<!-- measured: {mark} -->", f"<!-- /measured: {mark} -->"
    before, found, rest = path.read_text().partition(start)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{path} has no {start} with {end}")
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")
