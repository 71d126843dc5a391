"""The files and tables of benchmarks, and the machine that they were measured on."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

FOLDER = Path("outputs", "bench")
"""Where results are written unless told otherwise, under the current folder: `benchmarks/` holds those that docs/ shows."""

SPEED = ("", "images/s", "median", "ratio", "of medians")
LOAD = ("CPU s", "CPU ratio", "others %")
REST = ("MFU %", "peak MB", "kept MB", "transfers", "teacher asked", "loss apart")


def machine(device: torch.device) -> dict[str, Any]:
    """Description of the machine."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}


def cpu_name() -> str:
    """Name of the processor, from Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def write(path: Path, results: dict[str, Any], *, phase: str = "") -> None:
    """Writes results into a JSON file; those of a phase beside the other phases that are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if phase:
        results = {**(json.loads(path.read_text()) if path.exists() else {}), phase: results}
    path.write_text(json.dumps(results, indent=1) + "\n")


def print_table(title: str, results: dict[str, Any]) -> None:
    """Prints the rows of a phase, and its warning."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for position, head in enumerate((*SPEED, *LOAD, *REST)):
        table.add_column(head, justify="right" if position else "left", no_wrap=not position)
    for who, values in results["rows"].items():
        table.add_row(who, *_cells(values))
    console = Console(width=150)
    console.print(table)
    if results.get("warning"):
        console.print(f"warning: {results['warning']}", soft_wrap=True)


def _cells(values: dict[str, Any]) -> list[str]:
    apart, others = values.get("loss_difference"), [share for share in values["others"] if share is not None]
    return [
        f"{values['images_per_second_best']:,.0f}",
        f"{values['images_per_second_median']:,.0f}",
        f"{values.get('ratio_of_minima', '–')}",
        f"{values.get('ratio_of_medians', '–')}",
        f"{min(values['cpu_seconds']):.1f}",
        f"{values.get('ratio_of_cpu_seconds', '–')}",
        f"{100 * max(others):.0f}" if others else "–",
        f"{100 * values['model_flops_utilisation']:.1f}",
        f"{values['peak_mb']:,}",
        f"{values['bytes_kept'] / 1e6:.1f}",
        f"{values['transfers_per_epoch']:g}",
        f"{values['teacher_images']:,}",
        "–" if apart is None else f"{apart:.1e}",
    ]
