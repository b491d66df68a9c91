"""Every layer's sigma next to its exact value: `python scripts/audit_norms.py <run>`, or config overrides."""

from gan_lab import terminal
from gan_lab.commands.audit_norms import main

if __name__ == "__main__":
    terminal.run(main)
