"""Names that other programs give to our settings and options, so that messages can suggest ours. One table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_KEYS = {
    "optimizer.lr": "learning_rate lrate lr0 eta base_lr init_lr student_lr",
    "optimizer.weight_decay": "wd decay l2",
    "optimizer.momentum": "mom",
    "optimizer": "opt optim optimiser",
    "teacher_optimizer.lr": "teacher_lr lr_teacher",
    "schedule": "scheduler sched lr_scheduler lr_schedule",
    "averaging": "ema use_ema model_ema moving_average weight_averaging swa polyak",
    "averaging.decay": "ema_decay ema_alpha ema_m model_ema_decay alpha_ema",
    "distillation.temperature": "t temp tau kd_t kd_temp kd_temperature",
    "distillation.alpha": "a kd_alpha",
    "distillation.weight": "beta lambda lam kd_weight distill_weight",
    "distillation": "method kd_method distill distiller loss criterion",
    "student": "model net network arch architecture backbone s model_name model_s student_model student_arch",
    "teacher": "model_t teacher_model teacher_arch teacher_name",
    "teacher.checkpoint": "teacher_checkpoint teacher_ckpt teacher_path teacher_weights path_t t_ckpt",
    "student.checkpoint": "checkpoint ckpt weights load student_checkpoint student_ckpt",
    "teacher.name": "teacher.model teacher.arch",
    "student.name": "student.model student.arch",
    "dataset": "data ds",
    "dataset.root": "data_dir data_path data_root datadir dataset_dir dataset_path dataset_root dir folder path",
    "dataset.val_fraction": "val validation_split val_split val_size",
    "dataset.test_fraction": "test_split test_size",
    "dataset.image_size": "size img_size imgsz resolution input_size",
    "dataset.in_channels": "channels in_chans",
    "dataset.limit": "max_samples max_images num_samples n_samples n_train train_size subset",
    "dataset.labels": "num_labels n_labels labeled labelled num_labeled n_labeled",
    "dataset.unlabelled_root": "unlabeled_root unlabeled_dir unlabelled_dir unlabeled_path unlabeled unlabelled",
    "distillation.unlabelled_ratio": "mu unlabeled_ratio unlabelled_per_label",
    "dataset.flip": "hflip horizontal_flip",
    "epochs": "e n_epochs num_epochs max_epochs total_epochs",
    "teacher_epochs": "epochs_teacher",
    "batch_size": "b bs batch mini_batch train_batch_size batch_size_train",
    "seed": "random_seed manual_seed random_state rng",
    "workers": "j num_workers n_workers nworkers loader_workers",
    "num_threads": "threads n_threads nthreads",
    "output_dir": "o out out_dir output outdir save_dir save_path save log_dir logdir results_dir result_dir exp_dir",
    "store": "store_dir cache_dir",
    "class_weights": "class_weight weighted loss_weights pos_weight balanced imbalance",
    "limit_batches": "limit_train_batches max_steps max_batches",
    "controls": "control rows",
    "logger": "loggers tracker trackers tracking logging log_to report_to",
    "dry_run": "dry dryrun",
    "force": "overwrite retrain",
    "graph": "cuda_graph cuda_graphs",
    "compile": "torch_compile",
}

_OPTIONS = {
    "none": "null no ce cross_entropy baseline",
    "kd": "kl kldiv kl_div vanilla hinton soft_targets",
    "mse_logits": "mse logits",
    "label_smoothing": "ls smoothing",
    "constant": "null none fixed",
    "cosine": "cosine_annealing cosineannealinglr",
    "multistep": "step steplr multisteplr multi_step",
    "image_folder": "imagefolder folder custom imagenet",
    "vid": "variational",
}

_SWITCHES = {
    "device=cuda device=cpu": "gpu gpus cuda use_cuda use_gpu gpu_id",
    "device=cpu device=cuda": "cpu no_cuda",
    "precision=bf16 precision=fp32": "amp use_amp fp16 bf16 half mixed_precision autocast",
    "limit_batches=3 limit_batches=null": "debug fast_dev_run smoke",
}
"""Switches that are settings with other values here: what to write if the switch is on, and if it is off."""

NOTES = {
    "resume": "a run that was interrupted resumes by itself: run the same command again",
    "name": "folders are named by time and configuration; output_dir=FOLDER chooses where they go",
    "strong": "RandAugment of the training images is chosen with strong@dataset.strong=OPTION, such as fixmatch",
    "strongview": "RandAugment of strong views is chosen with strong@dataset.strong_view=OPTION, such as fixmatch",
    "launcher": "workers are chosen with hydra/launcher=local, slurm or ray, and set with hydra.launcher.workers=2",
    "trials": "a search has search.trials=20 trials of each method; search=tpe, search=random or search=grid begins one",
    "sampler": "search=tpe, search=random or search=grid chooses how a search proposes values",
}
"""Sentences about settings that are not needed here, or have a name that no one guesses."""

_SAME_NOTE = {"restart": "resume", "continue": "resume", "expname": "name", "runname": "name", "experimentname": "name"}
_SAME_NOTE |= dict.fromkeys(("ntrials", "numtrials", "maxtrials"), "trials") | dict.fromkeys(("sweeper", "optuna"), "sampler")
_SAME_NOTE |= dict.fromkeys(("randaugment", "randaug", "augment", "augmentation", "autoaugment", "aa", "cutout"), "strong")


def plain(word: str) -> str:
    """The word in lower case without separators: `ResNet-32x4` becomes `resnet32x4`."""
    return re.sub(r"[-_ .]", "", word).lower()


def _by_word(table: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ours, theirs in table.items():
        for word in theirs.split():
            found.setdefault(plain(word), []).append(ours)
    return found


_OURS, _SWITCHED = _by_word(_KEYS | _OPTIONS), _by_word(_SWITCHES)


def same(word: str, known: Iterable[str]) -> str:
    """The known word that this word is a spelling or a synonym of, or an empty string."""
    known = list(known)
    if alike := next((name for name in known if plain(name) == plain(word)), ""):
        return alike
    ours = _OURS.get(plain(word), [])
    candidates = [*ours, *(path.rpartition(".")[2] for path in ours)]
    return next((name for name in candidates if name in known), "")


def same_key(key: str, paths: Collection[str]) -> str:
    """The known path that a key such as `T`, `optim.learning_rate` or `data.root` stands for, or an empty string."""
    if found := next((ours for ours in _OURS.get(plain(key), []) if ours in paths), ""):
        return found
    head, dot, last = key.rpartition(".")
    group = same(head, paths) if dot else ""
    within = [path.rpartition(".")[2] for path in paths if path.rpartition(".")[0] == group] if group or not dot else []
    if found := same(last, within):
        return f"{group}.{found}" if dot else found
    return next((path for path in paths if path.rpartition(".")[2] == last), "")


def key_elsewhere(key: str, paths: Collection[str]) -> str:
    """The key that an unknown key stands for and that only other options of its group have, or an empty string."""
    return next((ours for ours in _OURS.get(plain(key), []) if "." in ours and ours.partition(".")[0] in paths), "")


def same_setting(key: str, value: str, paths: Collection[str]) -> str:
    """The override that has the effect of another program's switch, or an empty string."""
    head, _, last = key.rpartition(".")
    if plain(last) in ("pretrained", "usepretrained", "imagenetweights"):
        part = head if head in paths else "student"
        known = f"{part}.weights=DEFAULT" if f"{part}.weights" in paths else f"{part}.checkpoint=FILE"
        return known if value.lower() not in OFF else f"{known.partition('=')[0]}=null"
    words = next(iter(_SWITCHED.get(plain(last), [])), "").split()
    return words[value.lower() in OFF] if words else ""


OFF = ("false", "no", "off", "-1", "none", "null")
"""Values of a switch that is off."""


def note(key: str) -> str:
    """The sentence about a setting that is not needed here or not guessed, or an empty string."""
    first, last = (plain(part) for part in (key.partition(".")[0], key.rpartition(".")[2]))
    return NOTES.get(_SAME_NOTE.get(last, last), NOTES["launcher"] if first == "launcher" else "")
