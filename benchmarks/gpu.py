"""Measures what kdexp does on your GPU, and writes a page of figures: one command, part after part.

python benchmarks/gpu.py                                  # 25 minutes; outputs/gpu/DEVICE/gpu.md and gpu.json
python benchmarks/gpu.py --seconds 600 --parts steps,loops
python benchmarks/gpu.py --rehearse                       # the same on a CPU, tiny: figures that mean nothing

Each part runs in a process of its own, and for at most its share of the time; what one leaves over, the later ones have. One
that fails or is cut off keeps the rows that it has measured, and the next one begins. A later call replaces the parts that it
runs and keeps the others; the published pair goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_parts.catalogue import PARTS
from gpu_parts.context import Context
from gpu_parts.one import place, words_for
from gpu_parts.page import page
from gpu_parts.process import CUT_OFF, environment, python, run

INTERRUPTED = "interrupted"
LEAST = 5.0
"""Seconds below which a part is not begun."""


def main() -> None:
    """Runs the parts; ends with 1 if one failed, with 130 if interrupted."""
    asked = arguments()
    results = earlier(asked.folder, asked.machine, asked.rehearse)
    end, states = time.time() + asked.seconds, []
    print(f"{asked.machine['device']}: {', '.join(asked.parts)} in at most {asked.seconds:.0f} s", flush=True)
    for position, name in enumerate(asked.parts):
        shares = [PARTS[later].share for later in asked.parts[position:]]
        seconds = (end - time.time()) * shares[0] / sum(shares)
        print(f"{name:9}", end=" ", flush=True)
        results["parts"][name] = run_part(name, seconds, asked)
        states.append(results["parts"][name]["state"])
        print(told(results["parts"][name]), flush=True)
        write(asked.folder, results)
        if states[-1] == INTERRUPTED:
            break
    print(f"the page is {asked.folder / 'gpu.md'}, its figures {asked.folder / 'gpu.json'}")
    sys.exit(130 if INTERRUPTED in states else int("failed" in states))


def arguments() -> argparse.Namespace:
    """The command line, with the machine and the folder that follow from it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=positive, default=1500, help="for all parts together (default: %(default)s)")
    parser.add_argument("--parts", type=chosen, default=list(PARTS), metavar="A,B", help=f"of {','.join(PARTS)} (default: all)")
    parser.add_argument("--data", default="data", help="where CIFAR-100 lies or is downloaded to, for the part pair")
    parser.add_argument("--output", type=Path, help="the folder of the page (default: outputs/gpu/DEVICE)")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, tiny, to see that everything runs")
    asked = parser.parse_args()
    asked.machine = {"device": "rehearsal", "torch": version("torch")} if asked.rehearse else this_gpu()
    if not asked.machine:
        parser.error("PyTorch finds no CUDA device here; --rehearse runs the same on a CPU, tiny")
    name = re.sub(r"\W+", "_", asked.machine["device"].lower()).strip("_")
    asked.folder = (asked.output or Path("outputs", "gpu", name)).resolve()
    asked.data = str(Path(asked.data).expanduser().resolve())
    return asked


def chosen(text: str) -> list[str]:
    """The parts that a text names, in their order."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {', '.join(map(repr, unknown))}; there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def positive(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return number


def this_gpu() -> dict[str, Any]:
    """What the GPU is; asked in another process, since this one shall take none of its memory."""
    asking = subprocess.run(python("gpu_parts.device"), capture_output=True, text=True, env=environment())
    if asking.returncode:
        sys.exit(f"PyTorch can't be asked about the GPU:\n{asking.stderr.strip()}")
    return json.loads(asking.stdout)


def earlier(folder: Path, machine: dict[str, Any], rehearsal: bool) -> dict[str, Any]:
    """The results of earlier calls on the same machine in this folder; empty ones if there are none."""
    path = folder / "gpu.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    parts = found["parts"] if found.get("machine") == machine else {}
    return {"machine": machine, "rehearsal": rehearsal, "parts": parts}


def run_part(name: str, seconds: float, asked: argparse.Namespace) -> dict[str, Any]:
    """Runs a part in a process of its own; returns its rows and how it ended."""
    place(asked.folder, name).unlink(missing_ok=True)
    if seconds < LEAST:
        return concluded(name, "skipped", "no time was left", 0.0, asked.folder)
    log = asked.folder / "logs" / f"{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    device, begin = "cpu" if asked.rehearse else "cuda", time.time()
    context = Context(device, asked.rehearse, asked.folder, asked.data, begin + seconds)
    try:
        end = run(python("gpu_parts.one", *words_for(name, context)), seconds, log=log, grace=30, apart=True)
    except KeyboardInterrupt:
        end = INTERRUPTED
    taken = time.time() - begin
    reasons = {"": "", CUT_OFF: f"its time of {seconds:.0f} s was over", INTERRUPTED: "by Ctrl-C"}
    state = {"": "ok", CUT_OFF: CUT_OFF, INTERRUPTED: INTERRUPTED}.get(end, "failed")
    return concluded(name, state, reasons.get(end, f"{end}, see logs/{name}.txt"), taken, asked.folder)


def concluded(name: str, state: str, reason: str, seconds: float, folder: Path) -> dict[str, Any]:
    """The rows of a part, with its state and the reason for it; rows that failed are counted, and a part may skip itself."""
    path = place(folder, name)
    found = json.loads(path.read_text()) if path.exists() else {"rows": [], "left_out": [], "skipped": ""}
    if errors := sum("error" in row for row in found["rows"]):
        reason = f"{errors} of {len(found['rows'])} rows, see logs/{name}.txt" if state == "failed" else reason
    if found["skipped"]:
        state, reason = "skipped", found["skipped"]
    command = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    about = {"state": state, "reason": reason, "seconds": round(seconds, 1), "date": time.strftime("%Y-%m-%d")}
    return {**about, "command": command, "left_out": found["left_out"], "rows": found["rows"]}


def told(result: dict[str, Any]) -> str:
    """How a part ended, in a line."""
    rest = f", {len(result['left_out'])} left out" if result["left_out"] else ""
    reason = f": {result['reason']}" if result["reason"] else ""
    return f"{result['state']:8} {result['seconds']:6.1f} s  {len(result['rows'])} rows{rest}{reason}"


def write(folder: Path, results: dict[str, Any]) -> None:
    """Writes the figures and the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "gpu.md").write_text(page(results))


if __name__ == "__main__":
    main()
