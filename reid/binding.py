"""Binds config components to the signatures of what they name, before the first batch, and reports every mistake."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from reid.config import Component
from reid.errors import ConfigError, nearest

Registry = Mapping[str, Callable[..., Any]]
Built = TypeVar("Built")


def problems_of_component(
    section: str, registry: Registry, component: Component, given: Mapping[str, Any]
) -> list[str]:
    """The problems of a component's settings: unknown name, unknown or missing setting, wrong type, out of range; empty if there are none.

    Args:
        section: dotted path of the component; every problem names it.
        registry: name -> class or function; its signature defines the settings.
        component: the settings.
        given: placeholders for the arguments that the program itself passes; all other parameters of the signature are settings.
    """
    factory = registry.get(component.name)
    if factory is None:
        return [f"{section}.name: unknown {component.name!r}; {nearest(component.name, list(registry))}"]
    settings = {name: parameter for name, parameter in _parameters(factory).items() if name not in given}
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    missing = _required(settings) - component.options.keys()
    problems = [f"{section}.{name}: is missing; {component.name} needs it" for name in sorted(missing)]
    for name, value in component.options.items():
        if name not in settings:
            problems.append(f"{section}.{name}: {component.name} takes no {name!r}; {nearest(name, list(settings))}")
            continue
        try:
            TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            expected = error.errors()[0]["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
            problems.append(f"{section}.{name}: expected {expected}, got {value!r}")
    if not problems and section != "sampler":  # a sampler's ranges depend on the data
        problems = problems_of(lambda: build(section, registry, component, **given))
    return problems


def with_defaults(registry: Registry, component: Component) -> Component:
    """The component with all defaults of its signature written out, and integers converted to float for float parameters."""
    factory = registry[component.name]
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    defaults = {name: p.default for name, p in _parameters(factory).items() if p.default is not p.empty}
    settings = {**defaults, **component.options}
    floats = {name: float(value) for name, value in settings.items() if hints.get(name) is float}
    return Component(name=component.name, **{**settings, **floats})


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Named parameters; leaves out the *args and **kwargs of nn.Module, the signature of a module without settings."""
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return {name: p for name, p in inspect.signature(factory).parameters.items() if p.kind in named}


def _required(settings: Mapping[str, inspect.Parameter]) -> set[str]:
    return {name for name, parameter in settings.items() if parameter.default is parameter.empty}


def problems_of(attempt: Callable[[], Any]) -> list[str]:
    """The problems of the ConfigError that `attempt` raises; empty if it succeeds."""
    try:
        attempt()
    except ConfigError as error:
        return list(error.problems)
    return []


def build(section: str, registry: Mapping[str, Callable[..., Built]], component: Component, **given: Any) -> Built:
    """Creates what the component names, from its settings and from those `given` arguments that its signature has.

    Raises:
        ConfigError: a setting is out of range; the message names the section.
    """
    factory = registry[component.name]
    wanted = _parameters(factory)
    try:
        return factory(**{name: value for name, value in given.items() if name in wanted}, **component.options)
    except ConfigError as error:
        raise ConfigError(*(f"{section}.{problem}" for problem in error.problems)) from None
