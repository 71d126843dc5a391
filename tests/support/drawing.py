"""Pictures of runs, which take Matplotlib longer to draw than all else of a short run."""

from pathlib import Path


def drawn_once(draw):
    """Wraps `draw_curves`: the first curves of a test process are drawn, later ones are a copy of that `curves.png`.

    Whether there is something to draw stays as it is. The tests of drawing call `kdexp.report.curves.draw_curves` itself.
    """
    pictures: list[bytes] = []

    def draw_or_copy(folder: Path, entries, experiment, journal) -> None:
        if pictures and any(entry.stored and entry.stored.result["history"] for entry in entries):
            (folder / "curves.png").write_bytes(pictures[0])
            return
        draw(folder, entries, experiment, journal)
        if (folder / "curves.png").is_file():
            pictures.append((folder / "curves.png").read_bytes())

    return draw_or_copy
