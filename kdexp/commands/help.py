"""The text of `kdexp --help`: one screen, with the groups and options read from the folders of YAML files."""

import re
from pathlib import Path
from textwrap import fill

from kdexp.configuration.option_files import option_names
from kdexp.configuration.shipped import conf_dir

TEXT = """\
kdexp trains a teacher, then a student without and with distillation from it, and compares them in one table.
Use: kdexp [GROUP=OPTION ...] [KEY=VALUE ...]

Examples
  kdexp                                                  the digits that come with kdexp, some seconds
  kdexp distillation=hint distillation.weight=2          another method with another weight
  kdexp experiment=mnist_keras dry_run=true              what a published experiment would run, and what is stored
  kdexp -m distillation.temperature=1,2,4 seed=0,1,2     every combination of these values
  kdexp search=tpe 'distillation.alpha=interval(0,1)'    the best of 20 values on validation images

Groups (GROUP=OPTION)
{groups}

Often changed (KEY=VALUE)
  training seed  epochs  teacher_epochs (as epochs; 40 on the digits)  batch_size  'teacher_seed=${{seed}}'
  compute  device=cuda:1  devices=2  precision=bf16  fast=true  graph=false  compile  num_threads  memory=ram  workers
  data     dataset.root  .download  .val_fraction  .split_seed  .student_fraction  .limit  .labels  .unlabelled_root
  method   distillation.temperature  .alpha  .weight  .student_layers  .teacher_layers  views=mixup
  learning optimizer.lr  .weight_decay  teacher_optimizer.lr  strong@dataset.strong=usb  strong@dataset.strong_view=usb
  weights  teacher.checkpoint  student.checkpoint  .frozen_backbone  class_weights=balanced
  rows     'controls=[random_teacher,self_teacher,label_smoothing,from_scratch,frozen_backbone,int8]'
           'controls=[strong_labels,all_labels]' with few labels
  search   search.trials=40  .seeds=[0,1,2]  .fresh_seeds  .pruner=median
  run      dry_run  force  latency  diagnosis=auto|always|never  limit_batches  store  output_dir  logger=mlflow

Flags: -m runs every combination (hydra/launcher=lockstep: compatible ones together, =local: a worker per GPU or core,
=slurm, =ray: on a cluster; kdexp-work SWEEP adds a worker); --cfg job shows every key; --config-dir FOLDER adds yours;
--config-name NAME starts from your own file; --version.
See also kdexp-report (tables), kdexp-store (trained models), kdexp-predict (your images), kdexp-export (ONNX, ...).
kdexp --help columns explains every column; eval "$(kdexp -sc install=bash)" turns on TAB completion."""
JOINED = ("schedule", "pretraining", "averaging", "search")
"""Groups that stand in the line of the one before them."""


CHOSEN = (
    "dataset",
    "pretraining",
    "teacher",
    "student",
    "distillation",
    "optimizer",
    "schedule",
    "averaging",
    "protocol",
    "experiment",
    "sweep",
    "search",
)


def help_text(config_dir: str | None = None) -> str:
    """The help text with all existing options, those of a user's own folder included."""
    folders = [Path(conf_dir()), *([Path(config_dir)] if config_dir else [])]
    lines: list[str] = []
    previous: set[str] = set()
    found = {group: {name for folder in folders for name in option_names(folder, group)} for group in CHOSEN}
    found["experiment"] = _merge_pairs(found["experiment"], found["protocol"])
    for group, options in found.items():
        others = f" except {', '.join(previous - options)}" if previous > options else ""
        text = f"the same networks{others}" if previous >= options else ", ".join(sorted(options, key=_by_number))
        previous = options
        if group in JOINED and len(joined := f"{lines[-1]};  {group}  {text}") <= 120:
            lines[-1] = joined
            continue
        lines.append(fill(text, 120, initial_indent=f"  {group:<13} ", subsequent_indent=" " * 6))
    return TEXT.format(groups="\n".join(lines))


def _merge_pairs(experiments: set[str], protocols: set[str]) -> set[str]:
    """The experiments, with those of one protocol that differ only in the networks as one entry."""
    for protocol in protocols:
        pairs = {name for name in experiments if name.startswith(f"{protocol}_")}
        if len(pairs) > 1:
            experiments = experiments - pairs | {f"{protocol}_TEACHER_STUDENT ({len(pairs)})"}
    return experiments


def _by_number(name: str) -> list[str | int]:
    """A sort key that puts resnet8 before resnet14."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
