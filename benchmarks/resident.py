"""The same training by hand, with all tricks of kdexp and none of its abstractions, to measure what these cost.

Images are tensors on the device, the teacher answers once, memory stays at hand, pools are kdexp's. No store, no history, no
capture by name, no learners: change the method, and the loop must be edited.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peers import optimizer_of, soft_targets
from torch import Tensor, nn
from work import SEED, Point, Work, network

from kdexp.data.augmentation import NumberedViews
from kdexp.device.heap import retain_freed_memory
from kdexp.models.tutorial import TutorialNet
from kdexp.training.prepare import AUXILIARY_SEED


class Resident:
    """Runs a piece of work; `fast` means channels-last memory and fused optimizers, `bf16` means autocast."""

    def __init__(self, work: Work, fast: bool = False, bf16: bool = False):
        self.work, self.fast, self.bf16 = work, fast, bf16
        self.layout = torch.channels_last if fast else torch.contiguous_format
        self.views = NumberedViews(32, 4, True) if work.pair.augmented else NumberedViews(32)
        self.losses: list[float] = []
        self.teacher_images = self.bytes_kept = 0

    @retain_freed_memory()
    def run(self) -> None:
        """Runs the phase from untrained nets to test accuracies."""
        work, (train, tests) = self.work, self.work.raw
        self.pixels, self.labels = self.normalised(self.views.prepare(train.images)), train.labels.to(work.device)
        self.tests, self.answers = self.normalised(tests.images), tests.labels.to(work.device)
        teacher, said = self.net(work.pair.teacher), None
        if work.trains_teacher:
            self.train(teacher, Point("none"))
        else:
            teacher.load_state_dict(work.teacher_weights)
        teacher.eval().requires_grad_(False)
        for point in work.points:
            if point.method != "none" and not work.pair.augmented and said is None:
                parts = [self.ask(teacher, self.normalised(images)) for images in train.images.split(work.pair.batch_size)]
                said = [torch.cat(values) for values in zip(*parts, strict=True)]
                self.bytes_kept = sum(value.nbytes for value in said)
            torch.manual_seed(SEED + AUXILIARY_SEED)
            regress = nn.Conv2d(16, 32, 3, padding=1).to(work.device) if point.method == "hint" else None
            self.train(self.net(work.pair.student), point, teacher, said, regress)

    def train(self, net, point, teacher=None, said=None, regress=None) -> None:
        """Trains and tests one network."""
        work, losses = self.work, []
        optimizer = optimizer_of(work.pair, [net, *([regress] if regress else [])], fused=self.fast)
        net.train()
        for epoch, order in enumerate(work.orders):
            views = torch.randint(self.views.count, [work.images], generator=torch.Generator().manual_seed(epoch))
            for rows in torch.tensor(order, device=work.device).split(work.pair.batch_size):
                image, label = (
                    self.views.cut(self.pixels, rows, views[rows] if work.pair.augmented else None),
                    self.labels[rows],
                )
                image = image.contiguous(memory_format=self.layout)
                optimizer.zero_grad()
                with self.autocast():
                    logits, maps = forward(net, image)
                loss = F.cross_entropy(logits.float(), label)
                if point.method != "none":
                    target = self.ask(teacher, image) if said is None else [values[rows] for values in said]
                if point.method == "hint":
                    loss = loss + F.mse_loss(regress(maps.float()), target[1])
                elif point.method == "kd":
                    loss = point.alpha * loss + (1 - point.alpha) * soft_targets(logits.float(), target[0], point.temperature)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        self.losses = torch.stack(losses).tolist()
        net.eval()
        with torch.no_grad(), self.autocast():
            logits = torch.cat([net(image) for image in self.tests.split(500)])
        self.accuracy = float((logits.argmax(1) == self.answers).sum()) / work.tests

    @torch.no_grad()
    def ask(self, teacher: nn.Module, image: Tensor) -> list[Tensor]:
        """The teacher's outputs in fp32: logits, and feature maps if it has any."""
        self.teacher_images += len(image)
        with self.autocast():
            return [value.float() for value in forward(teacher, image) if value is not None]

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalised images."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.work.dataset.mean, self.work.dataset.std))
        return ((pixels.float() / 255 - mean) / std).to(self.work.device).contiguous(memory_format=self.layout)

    def net(self, name: str) -> nn.Module:
        """A network initialised from its seed."""
        torch.manual_seed(SEED)
        return network(name, self.work.shape).to(device=self.work.device, memory_format=self.layout)

    def autocast(self) -> torch.autocast:
        """Autocast for forward passes, if any."""
        return torch.autocast(self.work.device.type, torch.bfloat16, enabled=self.bf16)


def forward(net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits, and the last map of the tutorial's nets."""
    if not isinstance(net, TutorialNet):
        return net(image), None
    maps = net.features(image)
    return net.classifier(maps.flatten(1)), maps
