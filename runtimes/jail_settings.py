"""What a pool of slots is told, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from windlass.runtimes.jail_frames import RuntimeInfo
from windlass.runtimes.jail_isolation import LAYERS, Layer
from windlass.runtimes.jail_slot import CHILD_COMMAND
from windlass.runtimes.port import MIB


class JailSettings(Struct, frozen=True, kw_only=True):
    """How many children, what they may do, and when they are replaced. Times in microseconds."""

    #: Tasks that run at the same time.
    slots: int = 2
    #: Children that are ready and have not been used, so that a killed one is replaced at once.
    spares: int = 1
    runtimes: tuple[str, ...] = ("javascript", "wasm")
    #: Layers of isolation without which no task may run; see `jail_isolation.LAYERS`.
    required: frozenset[str] = frozenset()
    #: After the wall limit, how long the engine inside may take to end the task in its own way.
    grace_us: int = 250_000
    #: No task gets more, whatever its limits say.
    memory_bytes_max: int = 256 * MIB
    stack_bytes_max: int = 1 * MIB
    log_lines_max: int = 10_000
    log_bytes_max: int = 1 * MIB
    #: For the child as a whole: Python, the engines and the module cache besides the task.
    overhead_bytes: int = 768 * MIB
    #: A child is replaced after so many tasks.
    recycle_after: int = 5_000
    #: One child never serves two namespaces, however briefly; costs a spawn at each change.
    isolate_namespaces: bool = True
    #: Tasks that may share one crossing of the pipe; 1: none.
    batch_max: int = 16
    #: Only tasks of code that has shown itself to be short are put behind others: this much in all.
    batch_us: int = 4_000
    #: A task that was expected to be short and holds up others for so long loses them to another slot.
    straggler_us: int = 20_000
    #: Code that a child keeps in its memory.
    kept_bytes_max: int = 64 * MIB
    module_bytes_max: int = 10 * MIB
    #: Of input, config and context together.
    input_bytes_max: int = 16 * MIB
    #: Compiling: what is not done in the first time is begun anew where it is in nobody's way, with the second one. A
    #: module of 9 MB of dense code takes 5 s of CPU, and several times that on a machine that has more to do.
    prepare_first_us: int = 1_000_000
    prepare_wall_us: int = 20_000_000
    #: Address space of a child while it compiles. Those 9 MB take 230 MB of it, the child itself included.
    prepare_bytes_max: int = 512 * MIB
    command: Sequence[str] = CHILD_COMMAND

    def unknown_layers(self) -> list[str]:
        """Return what is required and no layer's name."""
        return sorted(self.required - set(LAYERS))


class JailReport(Struct, frozen=True, kw_only=True):
    """What a worker says about its slots: for its log, its registration and `windlass workers list`."""

    layers: tuple[Layer, ...]
    runtimes: tuple[RuntimeInfo, ...]
    busy: int
    idle: int
    spare: int
    starting: int
    queued: int
    #: Since the start of the pool.
    children_started: int
    children_crashed: int
    children_killed: int
    tasks_done: int

    @property
    def inactive(self) -> tuple[str, ...]:
        """The layers that do not hold here."""
        return tuple(layer.name for layer in self.layers if not layer.active)


class JailIncomplete(Exception):
    """The system does not give a layer of isolation that is required."""


class JailBroken(Exception):
    """Children cannot be started at all."""
