"""Checks of `devices`: what several ranks, each with a part of every batch, can train."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from kdexp.configuration.nodes import build
from kdexp.configuration.roles import node_at, option
from kdexp.data.views import MIXED
from kdexp.device.precision import pick_device
from kdexp.device.rank_plan import plan_ranks, started_ranks
from kdexp.errors import Problem
from kdexp.pretraining.settings import is_chosen, method_of

ALONE = "leave devices=1"


def check_ranks(config: dict[str, Any], broken: Collection[str], distilled_teachers: Sequence[str]) -> Iterator[Problem]:
    """Problems of several ranks with this machine, with other settings, and with the methods of the rows that are trained."""
    device, asked = pick_device(config["device"]), config["devices"]
    ranks = plan_ranks(asked, device).ranks
    if asked not in ("auto", 1) and (started := started_ranks()) > 1:
        yield Problem("devices", f"={asked}: torchrun or srun has started {started} processes; devices=auto trains with these")
    if ranks == 1:
        return
    if device.type not in ("cpu", "cuda"):
        yield Problem("devices", f"={asked}: only CPUs and CUDA devices train together, and this is {device.type}; {ALONE}")
    if device.index is not None:
        yield Problem("device", f"={device}: each of {ranks} ranks has a GPU of its own; device=cuda, or {ALONE}")
    if device.type == "cuda" and asked != "auto" and asked > (there := torch.cuda.device_count()):
        yield Problem("devices", f"={asked}: this machine has {there} GPU{'s' * (there > 1)}; devices=auto takes all of them")
    if config["graph"] is True:
        yield Problem("graph", "=True: steps of several processes exchange gradients and are not recorded; leave graph=auto")
    if config["class_weights"] is not None:
        yield Problem("class_weights", f"weighs the images of a whole batch, of which {ranks} ranks have a part each; {ALONE}")
    pretraining = ["pretraining"] if is_chosen(config) else []
    for path in ("baseline", "distillation", *pretraining, *(f"{path}.distillation" for path in distilled_teachers)):
        if path not in broken and (sentence := _needs_whole_batches(config, path)):
            yield Problem(path, f"{sentence}, of which {ranks} ranks have a part each; {ALONE}")


def _needs_whole_batches(config: dict[str, Any], path: str) -> str:
    """Why a method can't be trained on parts of batches, an empty string if it can."""
    node = node_at(config, path)
    method, name = build(method_of(node) if path == "pretraining" else node), option(config, path)
    if not method.per_image:
        return f"={name}: is not known to treat each image of a batch by itself"
    if method.student_view == MIXED and method.ce_weight:
        return f"={name}: learns labels of mixed images, whose second one is the image before it in the batch"
    return ""
