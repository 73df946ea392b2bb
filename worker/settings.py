"""What a worker is told. Command line, environment and file give these; they are checked here, once for all."""

from __future__ import annotations

import os
import platform
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

LOG_LEVELS = ("debug", "info", "warning", "error")
KNOWN_RUNTIMES = ("javascript", "wasm", "python")


#: A name or an address; one of IPv6 in brackets. No scheme, no path.
_HOST = re.compile(r"[^\s/:\[\]]+|\[[^\s/\[\]]+\]")

#: What engines take as units (engine/core/units.py).
_UNIT = re.compile(r"[a-z][a-z0-9_-]{0,23}")
OFFER_MAX = 32
AMOUNT_MAX = 999_999_999


class BadSettings(ValueError):
    """A setting is wrong. The message names it and says what to give instead."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker process. Times in seconds, sizes in bytes."""

    #: Engines to try in turn, as host:port.
    engines: tuple[str, ...] = ("127.0.0.1:7711",)
    namespace: str = "default"
    queues: tuple[str, ...] = ("default",)
    #: Jailed runtimes to offer; "python" is offered when handlers are given.
    runtimes: tuple[str, ...] = ("javascript", "wasm")
    #: Tasks that run at the same time.
    slots: int = 2
    #: What there is for tasks beside slots, by name: a task that needs some is taken only while as many are free.
    offer: dict[str, int] = field(default_factory=dict)
    #: Most short tasks that are taken per slot; see `windlass.worker.execution`.
    prefetch: int = 256
    #: Modules with trusted Python handlers, by import name.
    handlers: tuple[str, ...] = ()
    #: Offer the ready-made handlers (HTTP request, webhook, email, log) as well.
    standard_handlers: bool = False
    #: Whom the ready-made network handlers may talk to: host names, also `*.example.com`; none = any public address.
    allowed_hosts: tuple[str, ...] = ()
    #: Networks that are not public and that they may talk to all the same, as 10.1.0.0/16.
    allowed_networks: tuple[str, ...] = ()
    #: Stable name; None = host name and process id.
    worker_id: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    #: Where modules are kept between starts; None = a private folder that goes with the process.
    cache_folder: Path | None = None
    #: Layers of the jail that must hold, or the worker refuses to start.
    require_layers: frozenset[str] = frozenset()
    #: PEM file with Ed25519 public keys: only code signed by one of them runs. None = any code does.
    trusted_keys: Path | None = None
    #: How long running tasks may go on after SIGTERM.
    drain_s: float = 30.0
    #: Give up if no engine takes the registration within this; 0 = never.
    first_contact_s: float = 30.0
    #: A line about what was done, this often; 0 = none.
    summary_s: float = 60.0
    #: debug shows single tasks. The log goes to standard error, unless the host has set up logging by itself.
    log_level: str = "info"
    log_json: bool = False

    def check(self) -> None:
        """Raise BadSettings for the first setting that cannot work."""
        if not self.engines or any(not _is_address(engine) for engine in self.engines):
            raise BadSettings(f"--engine takes host:port, and at least one; got {', '.join(self.engines) or 'none'}")
        if not 1 <= self.slots <= 1024:
            raise BadSettings(f"--slots must be between 1 and 1024; got {self.slots}")
        if not 1 <= self.prefetch <= 256:
            raise BadSettings(f"prefetch must be between 1 and 256; got {self.prefetch}")
        if unknown := [name for name in self.runtimes if name not in KNOWN_RUNTIMES]:
            known = ", ".join(KNOWN_RUNTIMES)
            raise BadSettings(f"--runtimes: there is no runtime {unknown[0]!r}; known are {known}")
        if "python" in self.runtimes and not self.handlers and not self.standard_handlers:
            raise BadSettings("--runtimes python needs --handlers MODULE, as Python runs only handlers that you trust")
        if not self.runtimes and not self.handlers and not self.standard_handlers:
            raise BadSettings("a worker without --runtimes and without --handlers has nothing to do")
        if self.log_level not in LOG_LEVELS:
            raise BadSettings(f"--log-level must be one of {', '.join(LOG_LEVELS)}; got {self.log_level!r}")
        if not self.queues:
            raise BadSettings("--queue: give at least one")
        self._check_offer()

    def _check_offer(self) -> None:
        if len(self.offer) > OFFER_MAX:
            raise BadSettings(f"--offer: at most {OFFER_MAX} different units; got {len(self.offer)}")
        for name, amount in self.offer.items():
            if not _UNIT.fullmatch(name):
                rule = "a small letter, then small letters, digits, _ or -, at most 24 characters"
                raise BadSettings(f"--offer: {name[:60]!r} is not the name of a unit: {rule}")
            if not 1 <= amount <= AMOUNT_MAX:
                raise BadSettings(f"--offer {name}: give a whole number from 1 to {AMOUNT_MAX}; got {amount}")

    @property
    def jailed(self) -> tuple[str, ...]:
        """The runtimes that need the jail."""
        return tuple(name for name in self.runtimes if name != "python")

    def name(self) -> str:
        """The worker's id: the one given, or one that is likely to be this process's alone."""
        return self.worker_id or f"{platform.node() or 'worker'}-{os.getpid()}"


def instance_id() -> str:
    """A name for this start of the process."""
    return uuid.uuid4().hex


def offer_of(texts: Iterable[str]) -> dict[str, int]:
    """Units from texts as `gpu=2` or `gpu=2,memory=16384`. Raises BadSettings for anything else."""
    offer: dict[str, int] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, equals, amount = part.partition("=")
        if not equals or not re.fullmatch(r"[0-9]{1,9}", amount):
            raise BadSettings(f"--offer takes NAME=AMOUNT, as gpu=2, with a whole number; got {part[:60]!r}")
        if name in offer:
            raise BadSettings(f"--offer {name}: given twice")
        offer[name] = int(amount)
    return offer


def _is_address(text: str) -> bool:
    host, separator, port = text.rpartition(":")
    if not separator or not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port):
        return False
    return 0 < int(port) < 65536
