"""What commands import: PyTorch's compiler (and sympy with it) takes two seconds, and torchvision brings it along.

Trackers take as long, and are imported only where one is chosen.
"""

import subprocess
import sys

import pytest

BRIEF = ("epochs=1", "teacher_epochs=1", "limit_batches=1", "device=cpu")
CHECK = """
import sys

import torch
from kdexp.device.cuda_graphs import HostReads

with HostReads() as reads:  # as a step that is recorded is watched
    torch.ones(2).sum().item()
assert reads.names == ["_local_scalar_dense"], reads.names

def check(main, *words):
    sys.argv = ["command", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
    slow = ("torch._dynamo", "sympy", "torchvision", "tensorboard", "mlflow", "wandb")
    heavy = [name for name in slow if name in sys.modules]
    assert not heavy, f"{words} imports {heavy}"

"""


@pytest.mark.slow
def test_no_command_imports_pytorchs_compiler(here, tmp_path):
    assert here(*BRIEF, "diagnosis=always")[0] == 0
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    code = (
        CHECK
        + f"""
from kdexp.commands import export, main, report, store
check(main.main, *{BRIEF}, "force=true")
check(store.main, "list")
check(store.main, "verify")
check(main.main, "dry_run=true")
check(main.main, "-m", "dry_run=true", "seed=0,1", "distillation.temperature=1,4")
check(main.main, "dry_run=true", "dataset=cifar10", "teacher=resnet8x4", "student=shufflenetv2", "dataset.root=nowhere")
check(main.main, *{BRIEF}, "diagnosis=always")
check(report.main, "outputs/runs")
check(export.main, {str(run)!r}, "--format", "safetensors", "--output", "student.safetensors")
import kdexp, torch
check(lambda: kdexp.load({str(run)!r})(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
