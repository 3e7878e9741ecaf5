"""What was found wrong, with its evidence in a folder that is kept."""

from pathlib import Path

from chaos.transcript import Transcript


class Findings:
    """Complaints by job (or by process, or by fault). `folder`: where the evidence goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "violations"
        self.lines: list[str] = []

    def add(self, where: str, complaints: list[str], transcripts: list[Transcript]) -> None:
        """Take complaints in; lines after an empty one are evidence alone."""
        found = complaints[: complaints.index("")] if "" in complaints else complaints
        self.lines += [f"{where}: {line}" for line in found]
        self._folder.mkdir(exist_ok=True)
        with (self._folder / f"{where}.txt").open("a") as file:
            for line in [*complaints, *(line for one in transcripts for line in ["", *one.as_lines()])]:
                file.write(f"{line}\n")
        for line in found:
            print(f"VIOLATION {where}: {line}", flush=True)
