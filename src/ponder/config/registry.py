"""Everything that has a name on the command line, registered where it is written.

A class or function with one of the decorators below is known by its name to the command line,
`--help`, docs/config.md, the checks and the reports, wherever its file is: in one of the rooms
that are listed in `ROOMS`, in a module named by `plugins=[module]`, or in an installed package
with an entry point in the group `ponder.plugins`. Such a file is imported before the command line
is read, so it imports nothing heavy at its top (see `ponder.core.lazy_imports`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

from ponder.config.errors import UserError, brief, closest
from ponder.config.option import option

SOURCE = Path(__file__).resolve().parents[1]
ROOMS = ("tasks", "strategies", "rewards", "rollouts", "training")
REGISTERS = re.compile(
    r"^@(task|(text_)?reward|strategy|search|engine|tracker|verifier)\b", re.MULTILINE)
PLUGINS = "PONDER_PLUGINS"  # names of plugin modules for the processes that this one starts
DEFAULT_VARIANTS = ("think", "fixed", "blind", "search")  # of the default run
ENTRY_POINTS = "ponder.plugins"
# What a task offers and others require, in the words that a refusal uses.
ABILITIES = {
    "questions": "questions that are asked",
    "answers": "answers that are right or wrong",
    "predicted_answers": "answers that a network predicts right after the thought",
    "text": "a text to continue", "positions": "thoughts at the positions of a text",
    "options": "answer options",
    "labels": "numbered answers",
    "gold_thoughts": "gold thoughts",
    "hints": "hints",
    "worked_examples": "worked examples",
    "easier": "easier questions",
    "moves": "questions of moves",
    "several_questions": "several questions about one thought",
    "own_network": "a GPT-2 of our own",
    "hf_model": "a Hugging Face model",
    "trl": "a trainer in TRL",
    "pairs": "pairs of a right and a wrong rollout",
    "flowing": "learning through the thought itself",
}
# What every class of a group has, beside what its base class leaves abstract.
METHODS = {"task": ("sample", "test", "problems"), "strategy": ("credit", "loss"),
           "search": ("collect",), "tracker": ("write", "close")}
Target = TypeVar("Target", bound=Callable[..., Any])
Refuses = Callable[[Any], Iterator[str]]


@dataclass(frozen=True)
class Entry:
    """One registered class or function.

    keys: the dataclass of its keys, None where it has none. about: the first line of the docstring
    of its keys, where these are a dataclass of their own, else of its own.
    requires, offers: words of `ABILITIES`. Of rewards, engines and verifiers: refuses, a function
    from a configuration to lines that say what is wrong; of rewards: weight, where one is chosen by
    name, and needs, keys that must be set; of verifiers: accepts, a function from the answer of a
    file to what it would have to be, None where it is.
    """

    group: str
    name: str
    target: Any
    module: str
    about: str
    keys: type | None = None
    requires: frozenset[str] = frozenset()
    offers: frozenset[str] = frozenset()
    weight: float = 1.0
    needs: tuple[str, ...] = ()
    refuses: Refuses | None = None
    accepts: Callable[[str], str | None] | None = None

    @property
    def sentence(self) -> str:
        """`about` as it stands in help."""
        return self.about + "." * (self.about[-1:] not in "?!")


class Registry:
    """The entries of one group by name. Reading it imports the modules that register first."""

    def __init__(self, group: str) -> None:
        self.group = group
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Raises `UserError` for a name that another module has taken."""
        known = self._entries.get(entry.name)
        if known is not None and known.module != entry.module:
            raise UserError(f"{self.group}={entry.name}: found it in {entry.module} and in "
                            f"{known.module}; legal: one name for each {self.group}")
        self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> Entry:
        """Raises `UserError` that lists the legal names."""
        found = self.get(name)
        if found is None:
            names = self.names()
            raise UserError(f"{self.group}={name}: found {name!r}{closest(str(name), names)}; "
                            f"legal: {', '.join(names)}")
        return found

    def get(self, name: str) -> Entry | None:
        discover()
        return self._entries.get(name)

    def names(self) -> list[str]:
        """Every legal name, sorted."""
        discover()
        return sorted(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter([self[name] for name in self.names()])

    def __contains__(self, name: object) -> bool:
        return self.get(str(name)) is not None


TASKS, REWARDS, STRATEGIES = Registry("task"), Registry("reward"), Registry("strategy")
SEARCHES, ENGINES, TRACKERS = Registry("search"), Registry("engine"), Registry("tracker")
VERIFIERS = Registry("verifier")
REGISTRIES = (TASKS, REWARDS, STRATEGIES, SEARCHES, ENGINES, TRACKERS, VERIFIERS)


# --- the decorators -------------------------------------------------------------------------------

def task(name: str, *, keys: type | None = None) -> Callable[[Target], Target]:
    """Register a task. Its keys are its `option` fields, or those of the dataclass `keys`."""
    return _registering(TASKS, name, keys)


def strategy(name: str) -> Callable[[Target], Target]:
    """Register a strategy. Its keys are its `option` fields."""
    return _registering(STRATEGIES, name)


def search(name: str, *, keys: type | None = None) -> Callable[[Target], Target]:
    """Register a search (`rollout.method=<name>`), built with its keys `rollout.<name>.*`."""
    return _registering(SEARCHES, name, keys)


def tracker(name: str) -> Callable[[Target], Target]:
    """Register a tracker that mirrors metrics (`logger=<name>`)."""
    return _registering(TRACKERS, name)


def engine(name: str, *, requires: Iterable[str] = (),
           refuses: Refuses | None = None) -> Callable[[Target], Target]:
    """Register a training loop (`trainer.engine=<name>`): a function that returns its class, a
    `Trainer`, so that torch need not be loaded for the name. For the options see `Entry`.
    """
    def put(target: Target) -> Target:
        return _add(ENGINES, name, target, requires=requires, refuses=refuses)

    return put


def reward(function: Any = None, *, weight: float = 1.0, requires: Iterable[str] = (),
           needs: Iterable[str] = (), refuses: Refuses | None = None) -> Any:
    """Register a reward under the name of its function; for `weight` and the others see `Entry`."""
    def put(target: Any) -> Any:
        return _add(REWARDS, target.__name__, target, requires=requires, weight=weight,
                    needs=tuple(needs), refuses=refuses)

    return put if function is None else put(function)


def verifier(function: Any = None, *, accepts: Callable[[str], str | None] | None = None,
             refuses: Refuses | None = None) -> Any:
    """Register a verifier of free answers under the name of its function: (what was said, the right
    answer) -> whether it is right, or how right (0 to 1). For the options see `Entry`.
    """
    def put(target: Any) -> Any:
        return _add(VERIFIERS, target.__name__, target, accepts=accepts, refuses=refuses)

    return put if function is None else put(function)


def _registering(registry: Registry, name: str, keys: type | None = None,
                 ) -> Callable[[Target], Target]:
    def put(target: Any) -> Any:
        _must_have_methods(registry.group, name, target)
        if keys is not None:
            target.Keys = keys  # those of a subclass build on it
        return _add(registry, name, target, keys=keys or keys_of(target, registry.group, name),
                    about=first_line(keys or target))

    return put


def _must_have_methods(group: str, name: str, target: Any) -> None:
    """Raise `UserError` for a class without what is called later, or with an abstract method."""
    missing = [method for method in METHODS[group] if not callable(getattr(target, method, None))]
    missing += [method for method in dir(target)
                if getattr(getattr(target, method, None), "__isabstractmethod__", False)]
    if missing:
        raise UserError(f"{group}={name}: found {target.__qualname__} without {missing[0]}(); "
                        f"legal: a class with {', '.join(dict.fromkeys(missing))}")


def _add(registry: Registry, name: str, target: Any, requires: Iterable[str] = (),
         **more: Any) -> Any:
    """Put a class or function into a registry, and return it."""
    requires = frozenset(requires) | frozenset(getattr(target, "requires", ()))
    offers = frozenset(getattr(target, "offers", ()))
    unknown = sorted((requires | offers) - {*ABILITIES})
    if unknown:
        raise UserError(f"{registry.group}={name}: found requires or offers {unknown[0]!r}"
                        f"{closest(unknown[0], [*ABILITIES])}; legal: {', '.join(ABILITIES)}")
    registry.add(Entry(registry.group, name, target, target.__module__, requires=requires,
                       offers=offers, **{"about": first_line(target), **more}))
    return target


def first_line(target: Any) -> str:
    """The first line of its own docstring, without the end of a sentence."""
    return (inspect.cleandoc(vars(target).get("__doc__") or target.__doc__ or "")
            .partition("\n")[0].rstrip("."))


# --- keys of a class ------------------------------------------------------------------------------

def keys_of(target: Any, group: str, name: str) -> type | None:
    """The dataclass of the `option` fields of a class and its bases, also as `target.Keys`.

    It extends the keys of the nearest base that is registered. It has the key that names the class
    (`name`), and the class's contradictions, whose `self` is then the keys. None for a class
    without options, except where a name is needed.
    """
    bases: list[Any] = [part for part in target.__mro__[1:] if "Keys" in vars(part)]
    known = tuple(base.Keys for base in bases[:1])
    parts = [part for part in reversed(target.__mro__)
             if not any(part in base.__mro__ for base in bases)]
    found = _options(parts)
    if not found and not known and group not in ("task", "strategy"):
        return None
    named = []
    if group in ("task", "strategy"):
        about = f"name of the {group}"
        named = [("name", str, option(name, about, legal=(name,)))]
    made = make_dataclass("Keys", [*named, *((key, kind, _fresh(item))
                                             for key, (kind, item) in found.items())],
                          bases=known,
                          namespace={"contradictions": _contradictions(parts, known)})
    made.__module__, made.__qualname__ = target.__module__, f"{target.__qualname__}.Keys"
    made.__doc__ = first_line(target) + "."
    target.Keys = made  # pickled as `<class>.Keys`
    return made


def _options(parts: list[type]) -> dict[str, tuple[Any, Field]]:
    """key -> (type, field) of every `option` of classes, in their order."""
    found: dict[str, tuple[Any, Field]] = {}
    for part in parts:
        known = vars(part).get("__dataclass_fields__", {})
        typed = vars(part).get("__annotations__", {})
        for key, item in vars(part).items():
            if isinstance(item, Field) and "doc" in item.metadata and key not in typed:
                raise UserError(f"{part.__name__}.{key}: found an option without a type; legal: "
                                f"{key}: int = option(...)")
        for key, kind in typed.items():
            item = known.get(key, vars(part).get(key))
            if isinstance(item, Field) and "doc" in item.metadata:
                found[key] = (_evaluated(kind, part), item)
    return found


def _evaluated(kind: Any, part: type) -> Any:
    """A type as written in the class's module."""
    return eval(kind, vars(sys.modules[part.__module__])) if isinstance(kind, str) else kind


def _fresh(item: Field) -> Any:
    """A field of its own for another dataclass."""
    if item.default is not MISSING:
        return field(default=item.default, metadata=item.metadata)
    return field(default_factory=item.default_factory, metadata=item.metadata)  # type: ignore[arg-type]


def _contradictions(parts: list[type], known: tuple[Any, ...]) -> Callable[..., Iterator[str]]:
    own = [keys.contradictions for keys in known]
    own += [vars(part)["contradictions"] for part in parts if "contradictions" in vars(part)]

    def contradictions(self: Any, config: Any = None) -> Iterator[str]:
        """Each combination of legal values that means nothing, as the line that says why."""
        for function in own:
            yield from lines_of(function, self, config)

    return contradictions


def lines_of(function: Callable[..., Iterator[str]], keys: Any, config: Any) -> Iterator[str]:
    """The lines of a `contradictions(self)` or `contradictions(self, config)`."""
    whole = len(inspect.signature(function).parameters) > 1
    yield from function(keys, config) if whole else function(keys)


# --- discovery ------------------------------------------------------------------------------------

_discovered: set[str] = set()


def discover(plugins: Iterable[str] = ()) -> list[str]:
    """Import every module that registers something, and plugins; each is imported once.

    Processes that this one starts import the same plugins. Returns a line for each that registers
    nothing. Raises `UserError` for a plugin that cannot be imported.
    """
    inherited = [name for name in os.environ.get(PLUGINS, "").split(",") if name]
    names = list(dict.fromkeys([*inherited, *plugins]))
    if "ponder" not in _discovered:
        _discovered.add("ponder")  # first: modules that register something read the registry
        try:
            for module in _own_modules():
                importlib.import_module(module)
            for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
                _plugin(point.value.partition(":")[0])
        except BaseException:
            _discovered.remove("ponder")
            raise
    notes = []
    for name in names:
        if name not in _discovered:
            new, before = name not in sys.modules, _registered()
            _plugin(name)
            _discovered.add(name)
            if new and _registered() == before:
                notes.append(f"plugins=[{name}]: registers nothing, as no class or function in it "
                             "has a decorator such as @task or @reward")
    if names:
        os.environ[PLUGINS] = ",".join(names)
    return notes


def _registered() -> int:
    return sum(len(registry._entries) for registry in REGISTRIES)  # imports nothing


def plugin_files() -> list[tuple[Path, str]]:
    """(file, where Python looks for it) of every plugin that is not installed, for copies."""
    found = []
    names = {*_discovered, *(entry.module for registry in REGISTRIES for entry in registry)}
    for top in sorted({name.partition(".")[0] for name in names} - {"ponder", "__main__"}):
        module = sys.modules[top]
        for folder in getattr(module, "__path__", ()):
            found += [(file, f"{top}/{file.relative_to(folder)}")
                      for file in sorted(Path(folder).rglob("*.py"))]
        if not hasattr(module, "__path__") and module.__file__:
            found.append((Path(module.__file__), f"{top}.py"))
    return [(file, name) for file, name in found if "site-packages" not in file.parts]


def plugins_of(arguments: Iterable[str]) -> list[str]:
    """The plugins of a command line: those typed, and those of the checkpoint `model.name`."""
    names: list[str] = []
    for word in arguments:
        key, _, value = word.lstrip("+").partition("=")
        if key == "plugins":
            names += re.findall(r"[\w.]+", value)
        elif key == "model.name":  # what is wrong with it is told later
            with suppress(OSError, ValueError, KeyError, TypeError):
                names += json.loads((Path(value) / "ponder.json").read_text())["config"]["plugins"]
    return names


def _own_modules() -> Iterator[str]:
    """Names of the modules of this package that use one of the decorators."""
    for room in ROOMS:
        for path in sorted((SOURCE / room).rglob("*.py")):
            if REGISTERS.search(path.read_text(encoding="utf-8")):
                yield ".".join(("ponder", *path.relative_to(SOURCE).with_suffix("").parts))


def _plugin(name: str) -> None:
    """Import a module by name, from the current directory too."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"plugins=[{name}]: cannot be imported ({type(error).__name__}: "
                        f"{brief(error)}); legal: names of modules that Python finds from the "
                        "current directory") from None
