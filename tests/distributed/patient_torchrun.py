"""torchrun, with minutes of patience where it has seconds: a rank may take long to end on a busy machine."""

import signal
import sys

from torch.distributed import run
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

PATIENCE = 1800  # seconds
HEARTBEATS = "read_timeout={0},close_timeout={0},heartbeat_timeout={0},keep_alive_max_attempt={0}"

# How long it lets a rank that it has sent a signal end by itself; the option is for one of two cases.
LocalElasticAgent._shutdown.__defaults__ = (signal.SIGTERM, PATIENCE)
options = [f"--shutdown-timeout={PATIENCE}", f"--rdzv-conf={HEARTBEATS.format(PATIENCE)}"]
run.main([*options, *sys.argv[1:]])
