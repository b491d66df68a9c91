"""The program `gan-lab`, or `python -m gan_lab`: `gan-lab train norm=bssn`, `gan-lab compare outputs/`."""

import importlib
import sys

import gan_lab
from gan_lab import terminal
from gan_lab.shell import PROGRAM

COMMANDS = {
    "train": "train one GAN, or with -m a sweep",
    "compare": "runs side by side",
    "study": "what runs say, written as a chapter",
    "pack-records": "configs and metrics of many runs in one small file",
    "evaluate": "FID, IS, KID, precision and recall of a run, a generator, a checkpoint or images",
    "generate": "images of a trained generator",
    "prepare-data": "make a dataset's array before training",
    "fetch-emoji": "a folder of 3,786 colour pictures, by npm",
    "audit-norms": "every layer's sigma next to its exact value",
    "sweep-status": "how a sweep stands, live",
    "sync-wandb": "all runs of a folder to W&B, from their local records",
}


def main() -> int | None:
    """Run the command that is named first; the rest of the line is its own."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: {PROGRAM} <command> ...    ({PROGRAM} <command> --help says more)\n")
        print("\n".join(f"  {name:<14}{purpose}" for name, purpose in COMMANDS.items()))
        return 0
    if name == "--version":
        print(gan_lab.__version__)
        return 0
    if name not in COMMANDS:
        print(f"error: {PROGRAM} {name} is not a command: take one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"{PROGRAM} {name}", *arguments]
    command = importlib.import_module(f"gan_lab.commands.{name.replace('-', '_')}")
    return terminal.run(command.main, goes_on=name == "train")


if __name__ == "__main__":
    sys.exit(main())
