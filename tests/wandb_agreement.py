"""Whether the stand-in for W&B's server holds what a run's local record holds."""

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from wandb_server import StoredRun

from gan_lab.tracking import jsonl
from gan_lab.tracking.history import History
from gan_lab.tracking.ledger import CONSTANT, MACHINE


def _comparable(row: dict[str, Any], exact: bool) -> str:
    kept = {
        name: None if value is None or math.isnan(value) else float(value)
        for name, value in row.items()
        if name != jsonl.LATER and not CONSTANT.match(name) and (exact or not name.startswith(MACHINE))
    }
    return json.dumps(kept, sort_keys=True)


def assert_agrees(run: StoredRun, folder: Path, exact: bool = False) -> None:
    """Rows, images, best and last are the record's, once each; `exact`: the measured speeds too."""
    local = list(jsonl.read(folder / "metrics.jsonl"))
    rows = [row for row in run.rows if "samples" not in row]
    theirs, ours = (Counter(_comparable(row, exact) for row in found) for found in (rows, local))
    assert theirs == ours, f"W&B has {theirs - ours} and lacks {ours - theirs}"

    grids = {int(path.stem): path.read_bytes() for path in (folder / "samples").glob("*.png")}
    pictures = [row for row in run.rows if "samples" in row]
    assert sorted(row["iteration"] for row in pictures) == sorted(grids)
    for row in pictures:
        assert hashlib.sha256(grids[row["iteration"]]).hexdigest() == row["samples"]["sha256"]
        assert run.files[row["samples"]["path"]] == grids[row["iteration"]]

    for name, seen in History(local).metrics.items():
        assert run.summary[name] == seen.last
        if not name.endswith("_std"):
            best = seen.least if "fid" in name else seen.most
            assert run.summary[name.replace("metric/", "best/")] == best
