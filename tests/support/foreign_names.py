"""The CIFAR networks of the distillation papers, with the names of their own code, computed from a state dict alone.

Written after reading github.com/HobbitLong/RepDistiller (models/), github.com/megvii-research/mdistiller
(mdistiller/models/cifar/) and github.com/DefangChen/SimKD (models/), whose names agree. `rows` are (their name, our name,
shape) in the order in which their modules are registered: four sizes are a convolution's weight, two a linear layer's, one the
channels of a batch norm.
"""

from itertools import count

import torch
import torch.nn.functional as F

CLASSES = 7
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def tensors(rows):
    """Yields (their name, our name, shape) of every tensor."""
    for theirs, ours, shape, *bias in rows:
        kinds = NORM if len(shape) == 1 else ("weight", "bias") if len(shape) == 2 or bias else ("weight",)
        for kind in kinds:
            size = () if kind == NORM[-1] else shape if kind == "weight" else shape[:1]
            yield f"{theirs}.{kind}", f"{ours}.{kind}", size


def random_state(rows):
    """Returns a state dict with their names and random tensors."""
    torch.manual_seed(0)
    state = {name: torch.randn(size) * 0.3 for name, _, size in tensors(rows)}
    for name in state:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        if name.endswith(NORM[-1]):
            state[name] = torch.tensor(torch.randint(1000, ()).item())
    return state


# Names


def resnet(widths, blocks, expansion=1):
    def names():
        yield "conv1", "stem.0", (widths[0], 3, 3, 3)
        yield "bn1", "stem.1", (widths[0],)
        ins = widths[0]
        for stage, (inner, many) in enumerate(zip(widths[1:], blocks, strict=True)):
            outs = inner * expansion
            for block in range(many):
                t, o = f"layer{stage + 1}.{block}.", f"stages.{stage}.{block}."
                sizes = [(ins, inner, 3), (inner, outs, 3)]
                if expansion > 1:
                    sizes = [(ins, inner, 1), (inner, inner, 3), (inner, outs, 1)]
                for number, (before, after, kernel) in enumerate(sizes):
                    yield f"{t}conv{number + 1}", f"{o}residual.{3 * number}", (after, before, kernel, kernel)
                    yield f"{t}bn{number + 1}", f"{o}residual.{3 * number + 1}", (after,)
                if block == 0 and (stage > 0 or ins != outs):
                    yield f"{t}downsample.0", f"{o}shortcut.0", (outs, ins, 1, 1)
                    yield f"{t}downsample.1", f"{o}shortcut.1", (outs,)
                ins = outs
        yield "fc", "classifier", (CLASSES, ins)

    return list(names())


def wide_resnet(depth, widen, stem_width=16, **_values):
    def names():
        yield "conv1", "stem", (stem_width, 3, 3, 3)
        ins = stem_width
        for stage, width in enumerate((16, 32, 64)):
            outs = width * widen
            for block in range((depth - 4) // 6):
                t, o = f"block{stage + 1}.layer.{block}.", f"stages.{stage}.{block}."
                yield f"{t}bn1", f"{o}norm1", (ins,)
                yield f"{t}conv1", f"{o}conv1", (outs, ins, 3, 3)
                yield f"{t}bn2", f"{o}norm2", (outs,)
                yield f"{t}conv2", f"{o}conv2", (outs, outs, 3, 3)
                if ins != outs:
                    yield f"{t}convShortcut", f"{o}shortcut", (outs, ins, 1, 1)
                ins = outs
        yield "bn1", "norm", (ins,)
        yield "fc", "classifier", (CLASSES, ins)

    return list(names())


def vgg(convolutions, widths, size=32):
    def names():
        ins = 3
        for stage, (many, outs) in enumerate(zip(convolutions, widths, strict=True)):
            pooled = stage in (1, 2, 3) or (stage == 4 and size >= 64)
            ours = "stem" if stage == 0 else f"stages.{stage - 1}"
            for place in range(many):
                yield f"block{stage}.{3 * place}", f"{ours}.{3 * place + pooled}", (outs, ins, 3, 3), True
                yield f"block{stage}.{3 * place + 1}", f"{ours}.{3 * place + 1 + pooled}", (outs,)
                ins = outs
        yield "classifier", "classifier", (CLASSES, ins)

    return list(names())


MOBILE = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
OUR_STAGE = ((0, 0), (0, 1), (1, 0), (2, 0), (2, 4), (3, 0), (3, 3))
"""For each of their rows of blocks, our stage and the number of its first block there."""


def mobilenet(width):
    def names():
        ins = int(32 * width)
        yield "conv1.0", "stem.0", (ins, 3, 3, 3)
        yield "conv1.1", "stem.1", (ins,)
        for row, (expansion, channels, many, _) in enumerate(MOBILE):
            stage, first = OUR_STAGE[row]
            for block in range(many):
                t, o = f"blocks.{row}.{block}.conv.", f"stages.{stage}.{first + block}.residual."
                inner, outs = ins * expansion, int(channels * width)
                for place, shape in enumerate([(inner, ins, 1, 1), (inner, 1, 3, 3), (outs, inner, 1, 1)]):
                    yield f"{t}{3 * place}", f"{o}{3 * place}", shape
                    yield f"{t}{3 * place + 1}", f"{o}{3 * place + 1}", shape[:1]
                ins = outs
        last = int(1280 * max(width, 1))
        yield "conv2.0", "head.0", (last, ins, 1, 1)
        yield "conv2.1", "head.1", (last,)
        yield "classifier.0", "classifier", (CLASSES, last)

    return list(names())


def shufflenet_v1(blocks, widths, groups):
    def names():
        yield "conv1", "stem.0", (24, 3, 1, 1)
        yield "bn1", "stem.1", (24,)
        ins = 24
        for stage, (many, outs) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(many):
                t, o = f"layer{stage + 1}.{block}.", f"stages.{stage}.{block}."
                own = outs - ins if block == 0 else outs
                inner = own // 4
                yield f"{t}conv1", f"{o}narrow.0", (inner, ins // (1 if ins == 24 else groups), 1, 1)
                yield f"{t}bn1", f"{o}narrow.1", (inner,)
                yield f"{t}conv2", f"{o}residual.0", (inner, 1, 3, 3)
                yield f"{t}bn2", f"{o}residual.1", (inner,)
                yield f"{t}conv3", f"{o}residual.3", (own, inner // groups, 1, 1)
                yield f"{t}bn3", f"{o}residual.4", (own,)
                ins = outs
        yield "linear", "classifier", (CLASSES, ins)

    return list(names())


DOWN = (("left.0", 3), ("left.2", 1), ("right.0", 1), ("right.3", 3), ("right.5", 1))
BASIC = (("right.0", 1), ("right.3", 3), ("right.5", 1))


def shufflenet_v2(blocks, widths, head):
    def names():
        yield "conv1", "stem.0", (24, 3, 1, 1)
        yield "bn1", "stem.1", (24,)
        ins = 24
        for stage, (many, outs) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(many):
                t, o, half = f"layer{stage + 1}.{block}.", f"stages.{stage}.{block}.", outs // 2
                wide = ins if block == 0 else half
                for number, (ours, kernel) in enumerate(DOWN if block == 0 else BASIC, 1):
                    narrow = not (block == 0 and number == 1)
                    before = 1 if kernel == 3 else wide if number in (1, 2, 3) and not (block and number == 3) else half
                    side, place = ours.split(".")
                    yield f"{t}conv{number}", f"{o}{ours}", (half if narrow else ins, before, kernel, kernel)
                    yield f"{t}bn{number}", f"{o}{side}.{int(place) + 1}", (half if narrow else ins,)
            ins = outs
        yield "conv2", "head.0", (head, ins, 1, 1)
        yield "bn2", "head.1", (head,)
        yield "linear", "classifier", (CLASSES, head)

    return list(names())


# Logits of images, by their names


def _conv(s, name, x, stride=1, groups=1):
    weight = s[f"{name}.weight"]
    return F.conv2d(x, weight, s.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)


def _norm(s, name, x):
    return F.batch_norm(x, *(s[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")))


def _linear(s, name, x):
    return F.linear(x.mean((2, 3)), s[f"{name}.weight"], s[f"{name}.bias"])


def _blocks(s, pattern, key):
    """Returns the prefixes of the blocks of each stage."""
    for stage in count(1):
        found = []
        for block in count():
            prefix = pattern.format(stage, block)
            if f"{prefix}{key}" not in s:
                break
            found.append(prefix)
        if not found:
            return
        yield found


def resnet_logits(s, x):
    x = _norm(s, "bn1", _conv(s, "conv1", x)).relu()
    for stage, blocks in enumerate(_blocks(s, "layer{}.{}.", "conv1.weight")):
        for block, p in enumerate(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            last = 3 if f"{p}conv3.weight" in s else 2
            out = x
            for number in range(1, last + 1):
                out = _conv(s, f"{p}conv{number}", out, stride if number == last - 1 else 1)
                out = _norm(s, f"{p}bn{number}", out)
                out = out.relu() if number < last else out
            if f"{p}downsample.0.weight" in s:
                x = _norm(s, f"{p}downsample.1", _conv(s, f"{p}downsample.0", x, stride))
            x = (out + x).relu()
    return _linear(s, "fc", x)


def wide_resnet_logits(s, x):
    x = _conv(s, "conv1", x)
    for stage, blocks in enumerate(_blocks(s, "block{}.layer.{}.", "conv1.weight")):
        for block, p in enumerate(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            active = _norm(s, f"{p}bn1", x).relu()
            out = _conv(s, f"{p}conv2", _norm(s, f"{p}bn2", _conv(s, f"{p}conv1", active, stride)).relu())
            x = out + (_conv(s, f"{p}convShortcut", active, stride) if f"{p}convShortcut.weight" in s else x)
    return _linear(s, "fc", _norm(s, "bn1", x).relu())


def vgg_logits(s, x):
    size = x.shape[-1]
    for stage in range(5):
        if stage in (1, 2, 3) or (stage == 4 and size == 64):
            x = F.max_pool2d(x, 2)
        for place in count(0, 3):
            if f"block{stage}.{place}.weight" not in s:
                break
            x = _norm(s, f"block{stage}.{place + 1}", _conv(s, f"block{stage}.{place}", x)).relu()
    return _linear(s, "classifier", x)


def mobilenet_logits(s, x):
    x = _norm(s, "conv1.1", _conv(s, "conv1.0", x, 2)).relu()
    for row, (_, _, many, first) in enumerate(MOBILE):
        for block in range(many):
            p, stride = f"blocks.{row}.{block}.conv.", 1 if block else first
            out = _norm(s, f"{p}1", _conv(s, f"{p}0", x)).relu()
            out = _norm(s, f"{p}4", _conv(s, f"{p}3", out, stride, groups=out.shape[1])).relu()
            out = _norm(s, f"{p}7", _conv(s, f"{p}6", out))
            x = out + x if stride == 1 and out.shape == x.shape else out
    return _linear(s, "classifier.0", _norm(s, "conv2.1", _conv(s, "conv2.0", x)).relu())


def _shuffle(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


def shufflenet_v1_logits(s, x):
    x = _norm(s, "bn1", _conv(s, "conv1", x)).relu()
    for blocks in _blocks(s, "layer{}.{}.", "conv1.weight"):
        for block, p in enumerate(blocks):
            first = 1 if x.shape[1] == 24 else 3
            out = _shuffle(_norm(s, f"{p}bn1", _conv(s, f"{p}conv1", x, groups=first)).relu(), first)
            out = _norm(s, f"{p}bn2", _conv(s, f"{p}conv2", out, 1 if block else 2, groups=out.shape[1])).relu()
            out = _norm(s, f"{p}bn3", _conv(s, f"{p}conv3", out, groups=3))
            x = (out + x if block else torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1)).relu()
    return _linear(s, "linear", x)


def shufflenet_v2_logits(s, x):
    x = _norm(s, "bn1", _conv(s, "conv1", x)).relu()
    for blocks in _blocks(s, "layer{}.{}.", "conv1.weight"):
        for block, p in enumerate(blocks):
            left, right, first = (*x.chunk(2, 1), 1) if block else (x, x, 3)
            if not block:
                left = _norm(s, f"{p}bn1", _conv(s, f"{p}conv1", left, 2, groups=left.shape[1]))
                left = _norm(s, f"{p}bn2", _conv(s, f"{p}conv2", left)).relu()
            right = _norm(s, f"{p}bn{first}", _conv(s, f"{p}conv{first}", right)).relu()
            right = _conv(s, f"{p}conv{first + 1}", right, 1 if block else 2, groups=right.shape[1])
            right = _conv(s, f"{p}conv{first + 2}", _norm(s, f"{p}bn{first + 1}", right))
            x = _shuffle(torch.cat([left, _norm(s, f"{p}bn{first + 2}", right).relu()], 1), 2)
    return _linear(s, "linear", _norm(s, "bn2", _conv(s, "conv2", x)).relu())


def rows_of(node, size=32):
    """Returns the rows of the network of a configuration node."""
    given = {name: value for name, value in node.items() if name != "_target_"}
    match node["_target_"].rpartition(".")[2]:
        case "ResNet":
            return resnet(given["widths"], [(given["depth"] - 2) // 6] * 3)
        case "BottleneckResNet":
            return resnet((64, 64, 128, 256, 512), given["blocks"], expansion=4)
        case "WideResNet":
            return wide_resnet(**given)
        case "VGG":
            return vgg(**given, size=size)
        case "MobileNetV2":
            return mobilenet(**given)
        case "ShuffleNetV1":
            return shufflenet_v1(**given)
        case "ShuffleNetV2":
            return shufflenet_v2(**given)
