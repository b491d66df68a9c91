"""An iteration as one graph: its operations recorded once, and repeated on the same memory all at once.

A GPU computes an iteration of a small network in less time than Python takes to ask for its operations; a
CUDA graph asks for all of them together. That it leaves the bits of the operations one by one is looked at in
the first iterations, not believed. Tested by graphs that are recorded and repeated on a CPU, and on a GPU by
`make gpu`.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from gan_lab.errors import UserError
from gan_lab.training.gan import Gan, IterationInputs, Measure
from gan_lab.training.memory import copy_into, tensors_of

log = logging.getLogger(__name__)

WARM_UP = 2  # iterations in which optimizers make their states, and libraries their plans
CHECKS = 3  # iterations that are computed both ways

Values = dict[str, Tensor]


class Recorder(Protocol):
    """What makes graphs: `CudaGraphs`."""

    def ordinary(self, work: Callable[[], Values]) -> Values:
        """Do the work as recording it will."""

    def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
        """Do the work; returns what repeats it, and its values, whose memory a repetition fills anew."""


class GraphedUpdate:
    """`gan.update`, and `watch` of its values; from the third iteration on as a graph.

    What measures is computed operation by operation, on the same memory. When a state is loaded it begins
    again. Where a graph cannot be recorded, or leaves other bits, all is computed operation by operation, and
    a line in the log says why; if graphs are `required`, a UserError does. The values are good until the next
    call.
    """

    def __init__(
        self, gan: Gan, watch: Callable[[Values], None], recorder: Recorder, required: bool = False
    ) -> None:
        self.refusal = ""  # why there are no graphs
        self._gan, self._watch, self._recorder, self._required = gan, watch, recorder, required
        self._begin()

    def _begin(self) -> None:
        self._loads = self._gan.loads
        self._warm_up = WARM_UP
        # By kind: an iteration that pays a penalty is another than one that does not.
        self._graphs: dict[Any, _Graph] = {}

    def __call__(self, inputs: IterationInputs, measure: Measure = Measure.NOTHING) -> Values:
        if self._loads != self._gan.loads:
            self._begin()
        if self.refusal or measure:
            values = self._compute(inputs, measure)
        elif self._warm_up:
            self._warm_up -= 1
            values = self._recorder.ordinary(lambda: self._compute(inputs))
        elif (graph := self._graphs.get(inputs.kind)) is None or graph.checks < CHECKS:
            values = self._compute_both_ways(inputs)
        else:
            values = graph.repeat(inputs)
        self._gan.advance()
        return values

    def _compute(self, inputs: IterationInputs, measure: Measure = Measure.NOTHING) -> Values:
        values = self._gan.steps(inputs, measure)
        self._watch(values)
        return values

    def _compute_both_ways(self, inputs: IterationInputs) -> Values:
        state = tensors_of(self._gan.state_dict())
        before = [tensor.clone() for tensor in state]
        expected = self._recorder.ordinary(lambda: self._compute(inputs))
        after = [tensor.clone() for tensor in state]
        copy_into(state, before)
        try:
            graph = self._graphs.get(inputs.kind)
            if graph is None:
                graph = self._graphs[inputs.kind] = _Graph(self._recorder, self._compute, inputs)
                values = graph.values
            else:
                values = graph.repeat(inputs)
            if _same_bits(state, after) and _same_bits(list(values.values()), list(expected.values())):
                graph.checks += 1
                if graph.checks == CHECKS:
                    log.info("iterations are graphs, which left the bits of their operations one by one")
                return values
            self._refuse("its graph leaves other bits than its operations one by one")
        except RuntimeError as error:  # what CUDA refuses to capture
            self._refuse(" ".join(str(error).split()))
        copy_into(state, after)
        return expected

    def _refuse(self, reason: str) -> None:
        if self._required:
            raise UserError(
                f"train.cuda_graphs=true: an iteration of this run cannot be a graph ({reason}): take "
                "train.cuda_graphs=auto"
            )
        self.refusal = reason
        self._graphs.clear()
        log.warning("iterations are computed operation by operation, not as graphs: %s", reason)


class _Graph:
    """A recorded iteration, which takes its inputs from memory of its own."""

    def __init__(
        self, recorder: Recorder, compute: Callable[[IterationInputs], Values], inputs: IterationInputs
    ) -> None:
        self.checks = 0
        self._inputs = inputs.map(Tensor.clone)
        self._repeat, self.values = recorder.record(lambda: compute(self._inputs))

    def repeat(self, inputs: IterationInputs) -> Values:
        copy_into(self._inputs.tensors, inputs.tensors)
        self._repeat()
        return self.values


class CudaGraphs:
    """CUDA's graphs, recorded on a stream of their own, on which what is recorded has run before."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def ordinary(self, work: Callable[[], Values]) -> Values:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            values = work()
        current.wait_stream(self._stream)
        return values

    def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
        graph = torch.cuda.CUDAGraph()
        # It only notes what is asked for, by this thread: another may pin what the next iteration draws.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            values = work()
        graph.replay()
        return graph.replay, values


def _same_bits(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether all numbers are the same, NaN too."""
    return all(
        torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)
        for one, other in zip(ours, theirs, strict=True)
    )
