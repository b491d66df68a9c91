"""What the runs of a sweep tell each other, in whatever processes, of a server that made them wait."""

import json
import os
import time
from pathlib import Path
from typing import Any

VARIABLE = "GAN_LAB_LAUNCH"  # the folder that the runs of a sweep share, see gan_lab.sweep.record
ASKED_AGAIN = 600  # seconds after a failure


class Outages:
    """Notes of servers that failed, one JSON object a line in the sweep's folder; none outside a sweep.

    All runs of a sweep together wait `budget` seconds for a server, at their starts and ends. After a failure
    no other run asks for ten minutes, and none at all once the budget is used up.
    """

    def __init__(self, budget: float) -> None:
        folder = os.environ.get(VARIABLE)
        self._path = Path(folder) / "outages.jsonl" if folder else None
        self._budget = budget

    @property
    def are_shared(self) -> bool:
        return self._path is not None

    def add(self, server: str, problem: str, waited: float) -> None:
        """A server failed, after a run waited so many seconds for it."""
        assert self._path
        note = {"server": server, "problem": problem, "waited": waited, "time": time.time()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")

    def left(self, server: str) -> float:
        """The seconds that may still be waited for a server."""
        return max(0.0, self._budget - sum(note["waited"] for note in self._notes(server)))

    def problem(self, server: str) -> str:
        """Why a server is not asked now; empty where it may be."""
        notes = self._notes(server)
        if not notes:
            return ""
        is_fresh = time.time() - notes[-1]["time"] < ASKED_AGAIN
        return str(notes[-1]["problem"]) if is_fresh or not self.left(server) else ""

    def _notes(self, server: str) -> list[dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return []
        notes = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                note = json.loads(line)
                if note["server"] == server:
                    notes.append({**note, "waited": float(note["waited"]), "time": float(note["time"])})
            except (ValueError, TypeError, KeyError):  # two hosts wrote at once
                continue
        return notes
