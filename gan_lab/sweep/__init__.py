"""Sweeps: what a run does as one of many, and what is said when all of them have ended.

Hydra composes the runs and its launcher starts them: in this process, in parallel ones or on a cluster. Each
leaves a record (`record`) in a folder that its launch has to itself. `worker` is the process that trains,
`launcher` the one that launches: from the records it draws the closing table (`closing`) and its exit status,
whichever launcher and sweeper it was told to use. Nothing heavy is imported before a run.
"""

from gan_lab.sweep.launcher import SweepCallback, exit_status
from gan_lab.sweep.worker import job

__all__ = ["SweepCallback", "exit_status", "job"]
