"""What `kdexp --help` prints: one screen, its groups read from the folders of YAML files."""

import re
from pathlib import Path
from textwrap import fill

from kdexp.configuration.compose import conf_dir
from kdexp.configuration.option_files import option_names

TEXT = """\
kdexp trains a teacher, then a student without and with knowledge distillation from it, and compares them.
Use: kdexp [GROUP=OPTION ...] [KEY=VALUE ...]

Examples
  kdexp                                                  embedded digits, under a minute
  kdexp distillation=hint distillation.weight=2          another method, another weight
  kdexp experiment=cifar10_tutorial dataset.root=data    a published setting
  kdexp dry_run=true experiment=mnist_keras              what would run, and what the store already holds
  kdexp -m distillation.temperature=1,2,4 seed=0,1,2     every combination, one after the other

Groups (GROUP=OPTION)
{groups}

Often changed (KEY=VALUE)
  what     seed  epochs  teacher_epochs (follows epochs)  batch_size  teacher_seed
  how      device=auto|cpu|cuda|mps  precision=auto|fp32|tf32|bf16  fast  compile  graph  num_threads
           memory=auto|device|ram|disk  workers
  data     dataset.root  .download  .val_fraction  .split_seed  .student_fraction
  method   distillation.temperature  .alpha  .weight  .student_layers  .teacher_layers
  steps    optimizer.lr  optimizer.weight_decay  teacher_optimizer.lr
  weights  teacher.checkpoint  student.checkpoint  .frozen_backbone
  rows     controls=[random_teacher,self_teacher,label_smoothing,from_scratch,frozen_backbone]
  run      dry_run  force  latency  diagnosis=auto|always|never  limit_batches  store  output_dir

Flags: -m runs every combination, with hydra/launcher=lockstep compatible ones side by side; --cfg job shows every key;
--config-dir FOLDER adds your own options, --config-name NAME starts from a file of yours; --version.
See also kdexp-report (tables), kdexp-store (models), kdexp-export (ONNX and other files).
eval "$(kdexp -sc install=bash)" turns TAB completion on."""

CHOSEN = ("dataset", "teacher", "student", "distillation", "optimizer", "schedule", "protocol", "experiment", "sweep")


def help_text(config_dir: str | None = None) -> str:
    """The help with the options that are there, a user's own folder included."""
    folders = [Path(conf_dir()), *([Path(config_dir)] if config_dir else [])]
    lines = []
    shown: set[str] = set()
    there = {group: {name for folder in folders for name in option_names(folder, group)} for group in CHOSEN}
    there["experiment"] = _pairs_together(there["experiment"], there["protocol"])
    for group, options in there.items():
        others = f" but {', '.join(shown - options)}" if shown > options else ""
        written = f"the same networks{others}" if shown >= options else ", ".join(sorted(options, key=_by_number))
        lines.append(fill(written, 118, initial_indent=f"  {group:<13} ", subsequent_indent=" " * 16))
        shown = options
    return TEXT.format(groups="\n".join(lines))


def _pairs_together(experiments: set[str], protocols: set[str]) -> set[str]:
    """The experiments, those of many pairs of one protocol as one entry."""
    for protocol in protocols:
        pairs = {name for name in experiments if name.startswith(f"{protocol}_")}
        if len(pairs) > 1:
            experiments = experiments - pairs | {f"{protocol}_TEACHER_STUDENT ({len(pairs)} of them)"}
    return experiments


def _by_number(name: str) -> list[str | int]:
    """What sorts resnet8 before resnet14."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
