"""What a command would do: its choices, its networks, what the store already holds. Writes nothing."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kdexp import cost
from kdexp.data.dataset import DataUnavailable
from kdexp.experiment import PARTS, Experiment
from kdexp.journal import Journal
from kdexp.network import device_of, sketch_network


def preview(config: DictConfig, console: Console | None = None) -> None:
    """Prints one job of a dry run."""
    journal = Journal(console)
    experiment = Experiment(config, journal)
    journal.say(OmegaConf.to_yaml(OmegaConf.create({k: v for k, v in experiment.config.items() if k != "choices"})).rstrip())
    table = Table("role", "model", "parameters", "MACs", "method", "epochs", "store", box=SIMPLE_HEAD, pad_edge=False)
    for role in experiment.roles:
        network = sketch_network(experiment.config[PARTS[role].model], experiment.shape)
        macs = cost.multiply_adds(network, experiment.shape.probe(device_of(network), images=1))
        table.add_row(role, *_state(role, experiment, f"{cost.parameter_count(network):,}", f"{macs:,}"))
    journal.say(table)
    journal.say(f"dry run: nothing was trained or written ({experiment.precision.label} on {experiment.device.type})")


def _state(role: str, experiment: Experiment, parameters: str, macs: str) -> list[str]:
    try:
        entry = experiment.entry(role)
    except DataUnavailable:
        return [
            experiment.config["choices"][PARTS[role].model],
            parameters,
            macs,
            "",
            "",
            "unknown: the data are not here yet",
        ]
    stored = experiment.store.find(entry.spec.key)
    reused = stored is not None and not experiment.settings.force
    state = f"there since {stored.result['trained_at']}" if stored and reused else "to be trained"
    return [entry.model, parameters, macs, entry.method, str(entry.spec.epochs), state]
