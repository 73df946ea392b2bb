"""Named Python functions that a worker offers as tasks, with the models of what they take and give.

    from windlass.runtimes.python_handlers import handler

    @handler("orders.charge", category="payment", description="Charge a card.")
    async def charge(input: Charge, config: Gateway, ctx: TaskContext) -> Receipt: ...

A handler takes any of `input`, `config` and `ctx`, by name. Their annotations, and the one of the result, are what
pydantic checks and what the schemas are made of; without an annotation anything goes. Handlers are trusted: they run in
the worker's own process, and only in a worker that was told to import them.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
import pydantic
from msgspec import Struct

_PARAMETERS: Final = ("input", "config", "ctx")


class BadHandler(Exception):
    """A handler is declared in a way that cannot work. The message says what to change."""


class HandlerDescription(Struct, frozen=True, array_like=True):
    """What is told about a handler when the worker registers. Schemas are JSON Schema as JSON text."""

    type: str
    name: str
    description: str
    category: str
    stateful: bool
    input_schema: bytes
    output_schema: bytes
    config_schema: bytes


class Handler:
    """A function with a name and models. Calling it calls the function, for tests."""

    def __init__(
        self, function: Callable[..., Any], type: str, name: str, description: str, category: str, stateful: bool
    ) -> None:
        hints = typing.get_type_hints(function, include_extras=True)
        self.parameters = tuple(inspect.signature(function).parameters)
        unknown = set(self.parameters) - set(_PARAMETERS)
        if unknown:
            raise BadHandler(f"{type}: a handler takes input, config and ctx, not {', '.join(sorted(unknown))}")
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self.input = _adapter(type, "input", hints)
        self.config = _adapter(type, "config", hints)
        self.output = _adapter(type, "return", hints)
        self.description = HandlerDescription(
            type,
            name or type,
            description or inspect.getdoc(function) or "",
            category,
            stateful,
            msgspec.json.encode(self.input.json_schema()),
            msgspec.json.encode(self.output.json_schema()),
            msgspec.json.encode(self.config.json_schema()),
        )

    @property
    def type(self) -> str:
        """The name in definitions."""
        return self.description.type

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function itself."""
        return self.function(*arguments, **named)


def _adapter(type: str, parameter: str, hints: Mapping[str, Any]) -> pydantic.TypeAdapter[Any]:
    try:
        return pydantic.TypeAdapter(hints.get(parameter, Any))
    except pydantic.PydanticUserError as error:  # its message goes on for a page about pydantic's own settings
        shown = getattr(hints[parameter], "__name__", hints[parameter])
        message = f"{type}: the annotation of {parameter!r}, {shown}, is neither a model nor a type that pydantic knows"
        raise BadHandler(message) from error


def handler(
    type: str, *, name: str = "", description: str = "", category: str = "", stateful: bool = False
) -> Callable[[Callable[..., Any]], Handler]:
    """Make a handler of a function. `stateful`: it uses `ctx.suspend` and is asked again. Raises BadHandler."""

    def make(function: Callable[..., Any]) -> Handler:
        return Handler(function, type, name, description, category, stateful)

    return make


class HandlerRegistry:
    """The handlers of one worker, by type."""

    def __init__(self, handlers: Iterable[Handler] = ()) -> None:
        self._handlers: dict[str, Handler] = {}
        for one in handlers:
            self.add(one)

    def add(self, one: Handler) -> None:
        """Add a handler. Raises BadHandler when its type is taken."""
        if self._handlers.setdefault(one.type, one) is not one:
            raise BadHandler(f"there are two handlers called {one.type!r}")

    def add_module(self, module_name: str) -> int:
        """Import a module and add the handlers that it has; return how many. Raises BadHandler, ImportError."""
        module = importlib.import_module(module_name)
        found = {id(value): value for value in vars(module).values() if isinstance(value, Handler)}
        if not found:
            raise BadHandler(f"the module {module_name} has no handlers; decorate functions with @handler(…)")
        for one in found.values():
            self.add(one)
        return len(found)

    def get(self, type: str) -> Handler | None:
        """Return the handler of this type."""
        return self._handlers.get(type)

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)

    def descriptions(self) -> tuple[HandlerDescription, ...]:
        """Return what to register, in the order of the types."""
        return tuple(self._handlers[type].description for type in sorted(self._handlers))
