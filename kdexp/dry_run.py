"""What a command would do: its choices, its networks, what the store already holds. Writes nothing."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kdexp import cost
from kdexp.data.dataset import DataUnavailable
from kdexp.experiment import Experiment
from kdexp.journal import Journal
from kdexp.network import device_of, sketch_network
from kdexp.parts import PARTS


def preview(config: DictConfig, console: Console | None = None) -> None:
    """Prints one job of a dry run."""
    journal = Journal(console)
    experiment = Experiment(config, journal)
    journal.say(OmegaConf.to_yaml(OmegaConf.create({k: v for k, v in experiment.config.items() if k != "choices"})).rstrip())
    unreadable = _unreadable(experiment)
    table = Table("role", "model", "parameters", "MACs", "method", "epochs", "store", box=SIMPLE_HEAD, pad_edge=False)
    for role in experiment.roles:
        network = sketch_network(experiment.config[PARTS[role].model], experiment.shape)
        macs = cost.multiply_adds(network, experiment.shape.probe(device_of(network), images=1))
        costs = [f"{cost.parameter_count(network):,}", f"{macs:,}"]
        label = experiment.config["choices"][PARTS[role].model]
        table.add_row(role, *([label, *costs, "", "", "unknown"] if unreadable else _state(role, experiment, costs)))
    journal.say(table)
    if unreadable:
        journal.say(f"what the store holds is unknown: {unreadable}")
    journal.say(f"dry run: nothing was trained or written ({experiment.precision.label} on {experiment.device.type})")


def _unreadable(experiment: Experiment) -> str:
    """Why the store can't be asked, since the images are part of every key; empty if it can."""
    if not experiment.dataset.present():
        return "the data are not here yet; a run would download them"
    try:
        experiment.data  # noqa: B018
    except DataUnavailable as error:
        return str(error)
    return ""


def _state(role: str, experiment: Experiment, costs: list[str]) -> list[str]:
    entry = experiment.entry(role)
    stored = experiment.store.find(entry.spec.key)
    reused = stored is not None and not experiment.settings.force
    state = f"there since {stored.result['trained_at']}" if stored and reused else "to be trained"
    return [entry.model, *costs, entry.method, str(entry.spec.epochs), state]
