"""A GPU that is none: the program believes in `cuda`, and all is computed on the CPU, with real values.

Each tensor's memory has a label that says where it would lie. An operation's results lie where its arguments
do, in backward passes too. What a GPU refuses raises `RefusedError`: tensors or random numbers of two devices
in one operation, NumPy on the GPU's memory. What lets the host wait for a GPU, or passes between them, is
noted as an `Event`, with the line of the package that did it, and so is what a GPU would draw for itself.

It shows nothing of a GPU's kernels: not their numbers, their determinism or speed, and no streams, graphs and
collectives. `FakeTensorMode` cannot stand in for it: it has no values, and its backward passes need a GPU.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")

# Operations whose result, or its size, depends on values: the host waits for them.
READING = {
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "_linalg_eigh", "_linalg_svd", "linalg_eig", "_linalg_det",
    "_linalg_check_errors",
}  # fmt: skip
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {"copy_", "_to_copy", "clone"}


class RefusedError(RuntimeError):
    """What a GPU would refuse."""


class Event(NamedTuple):
    """`kind` is wait, upload (the host waits too), download (likewise), upload-async, or random."""

    kind: str
    operation: str
    line: str  # of the package, the innermost

    def __str__(self) -> str:
        return f"{self.kind}: {self.operation} in {self.line}"


class PretendedGpu:
    """While entered there is a GPU; `events` is all that the host has noted of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.current_device = 0
        self._held = contextlib.ExitStack()

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Event]]:
        """The events inside the block, once it has ended."""
        before, seen = len(self.events), []  # type: ignore[var-annotated]
        yield seen
        seen += self.events[before:]

    def note(self, kind: str, operation: str) -> None:
        ours = [frame for frame in traceback.extract_stack() if "/gan_lab/" in frame.filename]
        line = "a test"
        if ours:
            line = f"{ours[-1].filename.rpartition('/gan_lab/')[2]}:{ours[-1].lineno} ({ours[-1].name})"
        self.events.append(Event(kind, operation, line))

    def __enter__(self) -> "PretendedGpu":
        for owner, name, stand_in in self._stand_ins():
            self._held.enter_context(mock.patch.object(owner, name, stand_in))
        self._held.enter_context(_Kernels(self))
        self._held.enter_context(_Calls(self))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._held.__exit__(*exception)

    def _stand_ins(self) -> list[tuple[Any, str, Any]]:
        backward: Callable[..., Any] = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

        def run_backward(outputs: Any, *arguments: Any, **named: Any) -> Any:
            # The engine has left the mode, in which Python code of a backward pass must find itself.
            with _Calls(self), _making(device_among(outputs)):
                return backward(outputs, *arguments, **named)

        class Autocast(torch.autocast):
            def __init__(self, device_type: str, *arguments: Any, **named: Any) -> None:
                super().__init__("cpu" if device_type == "cuda" else device_type, *arguments, **named)

        def set_device(device: Any) -> None:
            self.current_device = device if isinstance(device, int) else torch.device(device).index or 0

        grouped_by_cpp = torch.optim.Optimizer._group_tensors_by_device_and_dtype

        def grouped(*arguments: Any, **named: Any) -> Any:
            groups = grouped_by_cpp(*arguments, **named)
            return {
                (device_among(lists), dtype): (lists, index) for (_, dtype), (lists, index) in groups.items()
            }

        def no_graph() -> None:
            raise RuntimeError("this GPU is none, and records nothing")

        stream = mock.MagicMock(is_capturing=lambda: False, device=GPU)
        in_cuda = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: self.current_device,
            "set_device": set_device,
            "synchronize": lambda device=None: self.note("wait", "synchronize"),
            "current_stream": lambda device=None: stream,
            "Stream": lambda device=None: stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "CUDAGraph": no_graph,
            "is_current_stream_capturing": lambda: False,
            "max_memory_allocated": lambda device=None: 2**20,
            "reset_peak_memory_stats": lambda device=None: None,
            "get_device_name": lambda device=None: "Pretended",
            "get_rng_state": lambda device="cuda": torch.zeros(16, dtype=torch.uint8),
            "set_rng_state": lambda state, device="cuda": None,
        }
        return [
            (torch.autograd, "_engine_run_backward", run_backward),
            (torch, "Generator", _Generator),
            (torch, "autocast", Autocast),
            (torch.Tensor, "pin_memory", _pinned),
            (torch.accelerator, "current_stream", lambda device=None: stream),
            (torch.backends.cudnn, "version", lambda: 90000),
            (torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(grouped)),
            *((torch.cuda, name, value) for name, value in in_cuda.items()),
        ]


# --- labels


def leaves_of(values: Any) -> Iterator[Any]:
    """What arguments and results consist of; PyTorch's own function, for any class, takes longer."""
    if isinstance(values, list | tuple):
        for value in values:
            yield from leaves_of(value)
    elif isinstance(values, dict):
        yield from leaves_of([*values.values()])
    else:
        yield values


def lies_on(tensor: Tensor) -> torch.device:
    """Where a tensor would lie."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "pretended_device", HOST)


def device_among(values: Any) -> torch.device:
    """The GPU if a tensor among these values lies on it."""
    return (
        GPU if any(isinstance(leaf, Tensor) and lies_on(leaf) == GPU for leaf in leaves_of(values)) else HOST
    )


def _labelled(value: Any, device: torch.device) -> Any:
    with torch._C.DisableTorchFunction():
        for leaf in leaves_of(value):
            if isinstance(leaf, Tensor):
                leaf.untyped_storage().pretended_device = device  # type: ignore[attr-defined]
    return value


def _pinned(tensor: Tensor, *_: Any) -> Tensor:
    if lies_on(tensor) == GPU:
        raise RefusedError("cannot pin memory of the GPU")
    with torch._C.DisableTorchFunction():
        copy = tensor.clone()
        copy.untyped_storage().is_page_locked = True  # type: ignore[attr-defined]
    return copy


def _is_pinned(tensor: Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "is_page_locked", False)


def _named_device(value: Any) -> torch.device | None:
    """The device that an argument names, if it names one."""
    if isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda"):
        value = torch.device(value)
    if not isinstance(value, torch.device):
        return None
    return GPU if value.type == "cuda" else value


class _Generator(torch.Generator):
    """A generator that knows its device, which for PyTorch is the CPU."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        generator = super().__new__(cls, "cpu")
        generator.pretended_device = _named_device(device)  # type: ignore[attr-defined]
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        pass


def _refuse_generator(generator: Any, device: torch.device) -> None:
    if generator is not None and getattr(generator, "pretended_device", HOST) != device:
        raise RefusedError(f"a random generator of another device than {device}")


# --- what an operation is inside of

_destinations: list[torch.device] = []  # of a copy from one device to the other, or of a new tensor
_surroundings: list[torch.device] = []  # where a kernel makes what it makes of no tensor


@contextlib.contextmanager
def _within(stack: list[torch.device], device: torch.device) -> Iterator[None]:
    stack.append(device)
    try:
        yield
    finally:
        stack.pop()


def _making(device: torch.device) -> contextlib.AbstractContextManager[None]:
    return _within(_surroundings, device)


class _Calls(TorchFunctionMode):
    """What Python asks of tensors: where they lie, to be moved, to be made."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return lies_on(args[0])
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return lies_on(args[0]) == GPU
        if func == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return lies_on(args[0]) == HOST
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._moved(func, *args, **kwargs)
        if name == "pin_memory":
            return _pinned(*args)
        if func is Tensor.__deepcopy__:  # by bytes
            with _within(_destinations, lies_on(args[0])):
                return _labelled(func(*args, **kwargs), lies_on(args[0]))
        if args and isinstance(args[0], Tensor) and lies_on(args[0]) == GPU:
            if func in (Tensor.numpy, Tensor.__array__):
                raise RefusedError("NumPy cannot read the GPU's memory")
            if func is Tensor.tolist:
                self._gpu.note("wait", name)
                with torch._C.DisableTorchFunction():
                    return _labelled(args[0].detach().clone(), HOST).tolist()
            if name == "new_tensor":
                self._gpu.note("upload", name)
                with _within(_destinations, GPU):
                    return _labelled(func(*args, **kwargs), GPU)
        if (device := _named_device(kwargs.get("device"))) is not None:
            return self._made(func, device, args, kwargs)
        with _making(device_among((args, kwargs))):
            return func(*args, **kwargs)

    def _made(self, func: Any, device: torch.device, args: Any, kwargs: Any) -> Any:
        """By a function that was told where."""
        _refuse_generator(kwargs.get("generator"), device)
        if device == GPU and func.__name__ in ("tensor", "as_tensor", "asarray"):
            self._gpu.note("upload", func.__name__)
        with _within(_destinations, device):
            return _labelled(func(*args, **{**kwargs, "device": HOST}), device)

    def _moved(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        target = {Tensor.cpu: HOST, Tensor.cuda: GPU}.get(func)
        target = target or _named_device(kwargs.pop("device", None))
        without_waiting, others = kwargs.pop("non_blocking", False), []
        for given in args:
            if isinstance(given, Tensor):
                target, others = lies_on(given), [given.dtype]
            elif isinstance(given, bool):
                without_waiting = given
            elif (named := _named_device(given)) is not None:
                target = named
            elif given is not None:
                others.append(given)
        if target is None or target == lies_on(tensor):
            return tensor.to(*others, **kwargs) if others or kwargs else tensor
        kind = "download" if target == HOST else "upload"
        if kind == "upload" and without_waiting and _is_pinned(tensor):
            kind = "upload-async"
        self._gpu.note(kind, "to")
        if not others:
            kwargs.setdefault("dtype", tensor.dtype)
        with _within(_destinations, target):
            return _labelled(tensor.to(*others, **{**kwargs, "copy": True}), target)


class _Kernels(TorchDispatchMode):
    """What is computed, by whatever Python or C++ called it."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::").partition(".")[0]
        leaves = [*leaves_of((args, kwargs))]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        devices = [lies_on(tensor) for tensor in tensors]
        on_gpu = GPU in devices
        destination = _destinations[-1] if _destinations else None
        if destination is None and on_gpu:
            self._check(func, name, tensors, devices)
        makes_there = on_gpu or (not tensors and bool(_surroundings) and _surroundings[-1] == GPU)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._check_random(name, leaves, GPU if makes_there or destination == GPU else HOST)
        result = func(*args, **kwargs)
        if name == "copy_":
            if destination is None and devices[0] != devices[1]:
                self._gpu.note(self._kind_of_copy(args, devices), name)
            return result
        if destination is not None:
            return result if on_gpu and name not in COPIES else _labelled(result, destination)
        return _labelled(result, GPU) if makes_there else result

    def _kind_of_copy(self, args: Any, devices: list[torch.device]) -> str:
        if devices[0] == HOST:
            return "download"
        return "upload-async" if len(args) > 2 and args[2] and _is_pinned(args[1]) else "upload"

    def _check_random(self, name: str, leaves: list[Any], device: torch.device) -> None:
        for leaf in leaves:
            if isinstance(leaf, torch._C.Generator):
                _refuse_generator(leaf, device)
        if device == GPU:
            self._gpu.note("random", name)

    def _check(self, func: Any, name: str, tensors: list[Tensor], devices: list[torch.device]) -> None:
        if name in READING:
            self._gpu.note("wait", name)
        if name in INDEXED:
            self._check_indices(name, tensors, devices)
        elif name not in COPIES:
            is_pointwise = torch.Tag.pointwise in func.tags or name == "fill_"
            for tensor, device in zip(tensors, devices, strict=True):
                if device == HOST and not (
                    is_pointwise and tensor.ndim == 0
                ):  # a number may come from the host
                    raise RefusedError(f"{func} takes tensors of the GPU and of the host")

    def _check_indices(self, name: str, tensors: list[Tensor], devices: list[torch.device]) -> None:
        if devices[0] == HOST:
            raise RefusedError(f"{name} of the host's memory by indices on the GPU")
        for index, device in zip(tensors[1:], devices[1:], strict=True):
            if device == HOST and index.ndim:
                self._gpu.note("upload", f"{name} by the host's indices")
            elif device == GPU and index.dtype in (torch.bool, torch.uint8):
                self._gpu.note("wait", f"{name} by a mask")
