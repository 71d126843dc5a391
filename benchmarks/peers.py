"""The loops that kdexp is compared with: the PyTorch tutorial's as it is, and one that follows the usual advice.

Nothing of kdexp trains here. The images come as Pillow images out of a data set of torchvision's kind, worker processes turn
them into tensors, and the teacher answers for every batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms
from work import SEED, Pair, Point, Work, network

from kdexp.training.prepare import AUXILIARY_SEED


@dataclass(frozen=True)
class Style:
    """Differences between the two loops."""

    item_every_step: bool = True
    persistent_workers: bool = False
    pin_memory: bool = False
    channels_last: bool = False
    bf16: bool = False


TUTORIAL = Style()
STRONG = Style(item_every_step=False, persistent_workers=True, pin_memory=True, channels_last=True, bf16=True)


class Images(Dataset):
    """Data set like torchvision's CIFAR: an array of pixels, each image passed through Pillow and a transform."""

    def __init__(self, pixels: Tensor, labels: Tensor, transform):
        self.pixels, self.labels, self.transform = pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[row])), self.labels[row]


class Orders(Sampler):
    """Sampler with a given order for every epoch."""

    def __init__(self, orders: list[list[int]]):
        self.orders, self.epoch = orders, -1

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(self.orders[self.epoch])

    def __len__(self) -> int:
        return len(self.orders[0])


class PlainNet(nn.Module):
    """The tutorial's nets: 3×3 convolutions of these `widths`, pooling after some, one hidden layer."""

    def __init__(self, widths: list[int], halve_after: set[int], hidden: int, classes: int):
        super().__init__()
        layers, channels = [], 3
        for position, width in enumerate(widths):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if position in halve_after else []
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(64 * channels, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, classes)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.features(image)
        return self.classifier(maps.flatten(1)), maps


class WithoutMaps(nn.Module):
    """Wraps a network to return only logits."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return self.net(image), None


def build(name: str, work: Work) -> nn.Module:
    """The network of that name, initialised from the default generator."""
    if name == "deepnn":
        return PlainNet([128, 64, 64, 32], {1, 3}, 512, work.pair.classes)
    if name == "lightnn":
        return PlainNet([16, 16], {0, 1}, 256, work.pair.classes)
    return WithoutMaps(network(name, work.shape))


def optimizer_of(pair: Pair, modules: list[nn.Module], fused: bool = False) -> torch.optim.Optimizer:
    """Adam, or SGD as in the CRD code."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if pair.augmented:
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, fused=fused or None)
    return torch.optim.Adam(parameters, lr=1e-3, fused=fused or None)


class Peer:
    """Runs a piece of work in its style; records losses and the number of images that the teacher saw."""

    def __init__(self, work: Work, style: Style):
        self.work, self.style = work, style
        self.losses: list[float] = []
        self.teacher_images = self.bytes_kept = 0

    def run(self) -> None:
        """Runs the phase from untrained nets to test accuracies."""
        work = self.work
        teacher = self.net(work.pair.teacher)
        if work.trains_teacher:
            self.train(teacher, [], None, Point("none"))
            self.test(teacher)
        else:
            for mine, given in zip(teacher.state_dict().values(), work.teacher_weights.values(), strict=True):
                mine.copy_(given)
        teacher.eval()
        for point in work.points:
            torch.manual_seed(SEED + AUXILIARY_SEED)
            regress = nn.Conv2d(16, 32, 3, padding=1).to(work.device)
            student = self.net(work.pair.student)
            self.train(student, [regress] if point.method == "hint" else [], teacher, point)
            self.test(student)

    def net(self, name: str) -> nn.Module:
        torch.manual_seed(SEED)
        layout = torch.channels_last if self.style.channels_last else torch.contiguous_format
        return build(name, self.work).to(device=self.work.device, memory_format=layout)

    def loader(self, train: bool) -> DataLoader:
        work, style, raw = self.work, self.style, self.work.raw[0 if train else 1]
        dataset = work.dataset
        moves = (
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if work.pair.augmented and train else []
        )
        to_tensor = [transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)]
        return DataLoader(
            Images(raw.images, raw.labels, transforms.Compose([*moves, *to_tensor])),
            batch_size=work.pair.batch_size,
            sampler=Orders(work.orders) if train else None,
            num_workers=min(work.pair.workers, os.cpu_count() or 1),
            persistent_workers=style.persistent_workers and train,
            pin_memory=style.pin_memory and work.device.type == "cuda",
            generator=torch.Generator(),  # the default one belongs to initial weights and dropout
        )

    def on_device(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        apart = self.style.pin_memory and self.work.device.type == "cuda"
        image = image.to(self.work.device, non_blocking=apart)
        image = image.contiguous(memory_format=torch.channels_last) if self.style.channels_last else image
        return image, label.to(self.work.device, non_blocking=apart)

    def train(self, net: nn.Module, extra: list[nn.Module], teacher: nn.Module | None, point: Point) -> None:
        optimizer = optimizer_of(self.work.pair, [net, *extra])
        loader, losses = self.loader(train=True), []
        net.train()
        for _ in range(self.work.epochs):
            for image, label in loader:
                image, label = self.on_device(image, label)
                optimizer.zero_grad()
                with torch.autocast(self.work.device.type, torch.bfloat16, enabled=self.style.bf16):
                    logits, maps = net(image)
                    loss = F.cross_entropy(logits.float(), label)
                    if teacher is not None and point.method != "none":
                        with torch.no_grad():
                            self.teacher_images += len(image)
                            said, target = teacher(image)
                        if point.method == "hint":
                            loss = loss + F.mse_loss(extra[0](maps).float(), target.float())
                        else:
                            loss = point.alpha * loss + (1 - point.alpha) * soft_targets(logits, said, point.temperature)
                loss.backward()
                optimizer.step()
                if self.style.item_every_step:
                    losses.append(loss.item())
                    if self.work.pair.top5:
                        hits = logits.topk(5).indices == label[:, None]
                        hits[:, 0].float().mean().item(), hits.any(1).float().mean().item()
                else:
                    losses.append(loss.detach())
        self.losses = torch.as_tensor(losses).tolist() if self.style.item_every_step else torch.stack(losses).tolist()

    @torch.no_grad()
    def test(self, net: nn.Module) -> float:
        net.eval()
        right = 0
        for image, label in self.loader(train=False):
            image, label = self.on_device(image, label)
            with torch.autocast(self.work.device.type, torch.bfloat16, enabled=self.style.bf16):
                right += (net(image)[0].argmax(1) == label).sum().item()
        return right / self.work.tests


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The soft-target loss as in the tutorial, averaged over the batch and multiplied by T²."""
    target = F.softmax(teacher.float() / temperature, dim=-1)
    answer = F.log_softmax(student.float() / temperature, dim=-1)
    return torch.sum(target * (target.log() - answer)) / len(student) * temperature**2
