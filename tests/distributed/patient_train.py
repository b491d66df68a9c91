"""train.py, with minutes of patience where a rank lets the first one be the first to refuse."""

import runpy
from pathlib import Path

from gan_lab.distributed import env

env.GRACE_S = 1800.0
runpy.run_path(str(Path(__file__).parents[2] / "train.py"), run_name="__main__")
