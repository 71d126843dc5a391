"""Answers on single classes and images, against plain counting."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from kdexp.tasks.answers import by_class, confusions, decisive, most_confused
from kdexp.tasks.classification import only_one_right

CLASSES = 4
SEEDS = st.integers(0, 2**31)


def draw(seed, images=60):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    return *(torch.randn(images, CLASSES, generator=generator) for _ in range(2)), labels


@given(SEEDS)
def test_counts_by_class_and_pair(seed):
    logits, _, labels = draw(seed)
    said = logits.argmax(1).tolist()
    pairs = list(zip(labels.tolist(), said, strict=True))
    assert by_class(logits, labels) == [(pairs.count((k, k)), labels.tolist().count(k)) for k in range(CLASSES)]
    counts = confusions(logits, labels)
    for first in range(CLASSES):
        for second in range(first + 1, CLASSES):
            assert counts[first, second] == pairs.count((first, second)) + pairs.count((second, first))
    assert all(first < second for first, second in counts)
    found = [counts[pair] for pair in most_confused(logits, labels, 2)]
    assert found == sorted(counts.values(), reverse=True)[:2]


def test_a_perfect_network_confuses_nothing():
    labels = torch.arange(CLASSES)
    assert most_confused(torch.eye(CLASSES), labels, 2) == []


@given(SEEDS, st.integers(1, 40))
def test_decisive_images_are_of_either_kind_and_the_clearest(seed, most):
    ours, theirs, labels = draw(seed)
    gained, lost = decisive(ours, theirs, labels, most)
    all_gained, all_lost = only_one_right(ours, theirs, labels)
    assert len(gained) + len(lost) == min(most, all_gained + all_lost)
    assert len(gained) >= min(all_gained, most // 2) and len(lost) >= min(all_lost, most // 2)
    for rows, first, second in ((gained, ours, theirs), (lost, theirs, ours)):
        assert all(first[row].argmax() == labels[row] != second[row].argmax() for row in rows)
        gain = [float(first[row].softmax(0)[labels[row]] - second[row].softmax(0)[labels[row]]) for row in rows]
        assert gain == sorted(gain, reverse=True)
