"""Parts by name: a recipe says ``{name: conv, layers: 4}`` and the registry checks it and builds the part."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from speechllm.errors import UserError, did_you_mean

T = TypeVar("T")
Spec = Mapping[str, Any]

_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


@dataclass(frozen=True)
class SharedOption:
    """An option of several parts of a kind, which is not for their constructors: it puts something around the part.

    Attributes:
        name: Its name in a spec; null is the same as leaving it out.
        annotation: What it may be.
        meaning: What it does, for the reference.
        applies: Whether a class has it.
        check: Raises a UserError where a class with this spec cannot have it.
        build: Builds the part of a spec that has it.
    """

    name: str
    annotation: Any
    meaning: str
    applies: Callable[[type[Any]], bool]
    check: Callable[[type[Any], Spec], None]
    build: Callable[[Spec], Any]


class Registry(Generic[T]):
    """Map the names that recipes use to the classes of one kind of part.

    A *spec* is plain data: a mapping with the key ``name`` and the options of that part's constructor. Arguments that
    the builder passes itself (widths, for instance) are not options: they never stand in a recipe.

    Args:
        kind: What is registered, in the singular, for messages (``"adapter"``).
        builder_args: Constructor arguments that :meth:`Registry.build` is given by the program, never by a recipe.
    """

    def __init__(self, kind: str, builder_args: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.builder_args = builder_args
        self._parts: dict[str, type[T]] = {}
        self.shared: dict[str, SharedOption] = {}

    def share(self, option: SharedOption) -> None:
        """Give an option to every part that it applies to."""
        self.shared[option.name] = option

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a class decorator that registers a part under ``name``.

        Raises:
            RuntimeError: If the name is taken by another class.
        """

        def decorate(part: type[T]) -> type[T]:
            taken = self._parts.get(name)
            # A module that is reloaded, in a notebook for instance, registers its parts again.
            if taken and (taken.__module__, taken.__qualname__) != (part.__module__, part.__qualname__):
                msg = f"The {self.kind} name '{name}' is taken by {taken.__module__}.{taken.__qualname__}."
                raise RuntimeError(msg)
            self._parts[name] = part
            return part

        return decorate

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._parts)

    def get(self, name: str) -> type[T]:
        """Return the class registered under ``name``.

        Raises:
            UserError: If no part has that name; the message gives the nearest one and all of them.
        """
        if name not in self._parts:
            msg = (
                f"Unknown {self.kind} '{name}'.{did_you_mean(name, self._parts)} "
                f"Registered: {', '.join(self.names()) or 'none'}."
            )
            raise UserError(msg)
        return self._parts[name]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the options that a recipe may give the part called ``name``."""
        part = self.get(name)
        parameters = inspect.signature(part).parameters
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        own = {key: value for key, value in parameters.items() if value.kind in named and key not in self.builder_args}
        return own | {
            key: inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option.annotation)
            for key, option in self.shared.items()
            if option.applies(part)
        }

    def check(self, spec: Spec) -> None:
        """Check a spec's name and option names without building anything.

        Raises:
            UserError: If the spec has no name, an unknown name, an option that the part does not take, or a value of
                another kind than the option's.
        """
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            msg = f"The {self.kind} needs a mapping with a 'name', such as {{name: {self._example()}}}; got {spec!r}."
            raise UserError(msg)
        allowed = self.options(spec["name"])
        for option in self._shared_in(spec):
            option.check(self.get(spec["name"]), spec)
        known = {"name", *allowed, *(key for key in self.shared if spec.get(key) is None)}
        unknown = [key for key in spec if key not in known]
        if unknown:
            hint = "".join(did_you_mean(key, allowed) for key in unknown)
            msg = (
                f"The {self.kind} '{spec['name']}' does not take {', '.join(repr(key) for key in unknown)}.{hint} "
                f"It takes: {', '.join(allowed) or 'no options'}."
            )
            raise UserError(msg)
        required = [key for key, value in allowed.items() if value.default is inspect.Parameter.empty]
        missing = [key for key in required if key not in spec]
        if missing:
            msg = f"The {self.kind} '{spec['name']}' needs {', '.join(repr(key) for key in missing)}."
            raise UserError(msg)
        for key in allowed.keys() & spec.keys():
            kinds = _kinds(allowed[key].annotation)
            if kinds and not any(_is_of_kind(spec[key], kind) for kind in kinds):
                wanted = " or ".join(_KIND_NAMES[kind] for kind in kinds)
                msg = f"`{key}` of the {self.kind} '{spec['name']}' must be {wanted}, but is {spec[key]!r}."
                raise UserError(msg)

    def build(self, spec: Spec, **builder_args: Any) -> T:
        """Build the part that ``spec`` describes.

        Args:
            spec: Mapping with ``name`` and options.
            builder_args: Arguments that the program passes, such as widths; those that the part does not name are left
                out.

        Raises:
            UserError: As :meth:`check`, or from the part's constructor about an option's value.
        """
        self.check(spec)
        for option in self._shared_in(spec):
            built: T = option.build(spec)
            return built
        part = self.get(spec["name"])
        options = {key: value for key, value in spec.items() if key != "name" and key not in self.shared}
        named = inspect.signature(part).parameters
        return part(**options, **{key: value for key, value in builder_args.items() if key in named})

    def _shared_in(self, spec: Spec) -> list[SharedOption]:
        """Return the shared options that a spec gives."""
        return [option for name, option in self.shared.items() if spec.get(name) is not None]

    def _example(self) -> str:
        return self.names()[0] if self._parts else "…"


def _kinds(annotation: Any) -> list[type]:
    """Return the kinds of plain values that an annotation allows; nothing where it allows others too."""
    kinds = list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]
    return kinds if all(kind in _KIND_NAMES for kind in kinds) else []


def _is_of_kind(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


ENCODERS: Registry[Any] = Registry("encoder")
FUSIONS: Registry[Any] = Registry("fusion", builder_args=("in_dims",))
ADAPTERS: Registry[Any] = Registry("adapter", builder_args=("in_dim", "out_dim", "vocab_size", "frame_rate"))
DECODERS: Registry[Any] = Registry("decoder")
METRICS: Registry[Any] = Registry("metric", builder_args=("language",))
