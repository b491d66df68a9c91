"""Where the configs lie, and the paper's sweeps as choices of `experiment`: each dataset's with its grids.

`experiment=paper/<dataset>_<sweep>` is configs/experiment/paper/<dataset>.yaml, then sweep/<sweep>.yaml in
the same folder, then the scales of the table here; `paper/exact/<dataset>_<sweep>` begins with
exact/<dataset>.yaml, for those sweeps that the public code has. Numbers: Lin et al. 2021's public code.
"""

from pathlib import Path
from typing import Any

# In a wheel the configs lie inside the package, in a checkout next to it.
CONFIGS = next(path for path in Path(__file__).resolve().parents if (path / "configs").is_dir()) / "configs"

WIDE = "0.7,0.8,0.9,1.0,1.2,1.4,1.6,1.8,2.0,2.2,2.4,2.6,2.8,3.0,3.2,3.4,3.6,3.8,4.0"
NARROW = "0.7,0.8,0.9,1.0,1.2,1.4,1.6"
COARSE = "1.0,1.2,1.4,1.6"

# Each dataset's sweeps, and the values of norm.scale where a sweep is over scales. Strict SN's are WIDE on
# every dataset: σ_op reaches √K = 3 or 4 times σ_out (K the kernel's positions), and so may the best scale.
CNN = {"norms": None, "lr": None, "ndis5": None, "gamma": None, "gamma_ndis5": None, "strict": WIDE}
SWEEPS: dict[str, dict[str, str | None]] = {
    "cifar10": {**CNN, "scale": WIDE},
    "stl10": {**CNN, "scale": NARROW},
    "celeba": {**CNN, "scale": NARROW},
    "imagenet": {"norms": None, "scale": COARSE},
}
ADDED = ("norms", "strict")  # with strict SN or no norm, of which the public code has neither


def axes() -> list[str]:
    """The axes of the config, of which a command line takes choices."""
    return [folder.name for folder in CONFIGS.iterdir()]


def register() -> None:
    """Make every sweep of the table a choice that Hydra knows; before it composes anything."""
    from hydra.core.config_store import ConfigStore  # slow, and not needed to read what was composed

    # Hydra copies its sources for every group it lists (130 times for --help), and with them the whole store.
    # That is a singleton and hands out copies of what it holds, so one is enough.
    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
    for dataset, sweeps in SWEEPS.items():
        for sweep, scales in sweeps.items():
            for folder in ("paper",) if sweep in ADDED else ("paper", "paper/exact"):
                defaults = [f"/experiment/{folder}/{dataset}", f"/experiment/paper/sweep/{sweep}", "_self_"]
                node: dict[str, Any] = {"defaults": defaults}
                if scales:
                    node["hydra"] = {"sweeper": {"params": {"norm.scale": scales}}}
                name = f"{dataset}_{sweep}"
                ConfigStore.instance().store(name, node, group=f"experiment/{folder}", package="_global_")
