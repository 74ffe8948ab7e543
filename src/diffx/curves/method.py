"""Methods: runs of one experiment and id with their seeds pooled, under labels that tell them from each other."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffx.curves.read import Run, list_leaves
from diffx.errors import DiffxError
from diffx.plain import group, is_number, join, write_value
from diffx.run.name import is_part_of_a_run

CLASS = "._target_"
SEVERAL = 4  # more labels than this are not listed one by one
FEW = 2  # more settings than this make a label too long to read, or to be told from its neighbours by its beginning


@dataclass(frozen=True)
class Method:
    """One method: all its seeds, sorted."""

    label: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def plugins(self) -> tuple[str, ...]:
        return self.runs[0].plugins

    @property
    def facts(self) -> dict[str, Any]:
        return self.runs[0].facts

    @property
    def diverged(self) -> int:
        """How many of the seeds diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def settings(self) -> dict[str, Any]:
        """Dotted names and values of the resolved configuration, but for those that make no other run."""
        return {name: value for name, value in list_leaves(self.runs[0].config) if is_part_of_a_run(name)}


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """Pools the seeds of each method; fewest plugins first, then by label."""
    pools = group((run, run.key) for run in runs).values()
    methods = [Method(pool[0].label, tuple(sorted(pool, key=lambda run: run.seed))) for pool in pools]
    methods.sort(key=lambda method: (len(method.plugins), method.label, method.runs[0].key))
    return make_distinct(methods)


def make_distinct(methods: Sequence[Method]) -> list[Method]:
    """Adds the settings that differ to labels that collide, then the experiment, then the id."""
    labels = label_apart([method.label for method in methods], [method.settings for method in methods])
    named = [replace(method, label=label) for method, label in zip(methods, labels, strict=True)]
    for part in (0, 1):
        counts = Counter(method.label for method in named)
        named = [
            replace(one, label=f"{one.label} ({one.runs[0].key[part]})") if counts[one.label] > 1 else one
            for one in named
        ]
    return sorted(named, key=lambda method: (len(method.plugins), make_sort_key(method, named)))


def make_sort_key(method: Method, methods: Sequence[Method]) -> tuple[Any, ...]:
    """Sort key within a number of plugins: by plugin names, then by the swept values as numbers."""
    same = [other for other in methods if other.plugins == method.plugins]
    values = [method.settings.get(name) for name in find_varied([other.settings for other in same])]
    return (method.plugins, *((0, value, "") if is_number(value) else (1, 0.0, str(value)) for value in values))


def label_apart(labels: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each label with the settings in which those that share it differ."""
    found = list(labels)
    for label in dict.fromkeys(labels):
        places = [place for place, other in enumerate(labels) if other == label]
        for place, text in zip(places, tell_apart([settings[place] for place in places]), strict=True):
            found[place] = f"{label} {text}".strip()
    return found


def tell_apart(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that differ, as `name=value` with the shortest clear name. Where more than a few do, a value that
    most have is left out: of a backbone and its variants each is named by what it varies, the first by nothing."""
    short = shorten_names(find_varied(settings))
    usual = {name: find_usual([one.get(name) for one in settings]) if len(short) > FEW else None for name in short}
    return [
        " ".join(
            write_setting(name, text, one.get(name))
            for name, text in short.items()
            if repr(one.get(name)) != usual[name]
        )
        for one in settings
    ]


def find_usual(values: Sequence[Any]) -> str | None:
    """How the value that more than half have is written in Python, None where there is no such."""
    value, count = Counter(map(repr, values)).most_common(1)[0]
    return value if 2 * count > len(values) else None


def find_varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values are not the same everywhere. Settings that change together count once, and those of a class
    that says them not at all."""
    columns: dict[tuple[str, ...], str] = {}
    for name in dict.fromkeys(name for one in settings for name in one):
        column = tuple(repr(one.get(name)) for one in settings)
        if len(set(column)) > 1:
            columns.setdefault(column, name)
    varied = {name: column for column, name in columns.items()}
    classes = [name for name, column in varied.items() if name.endswith(CLASS) and repr(None) not in column]
    return [name for name in varied if not any(is_said_by(varied, name, one) for one in classes)]


def is_said_by(varied: Mapping[str, tuple[str, ...]], name: str, chosen: str) -> bool:
    """Whether a setting of the class `chosen` has one value wherever that class has."""
    if name == chosen or not name.startswith(chosen.removesuffix(CLASS[1:])):
        return False
    return len({*zip(varied[chosen], varied[name], strict=True)}) == len({*varied[chosen]})


def write_setting(name: str, text: str, value: Any) -> str:
    """`text=value`, as a label has it; a class goes by its own name."""
    return f"{text}={str(value).rpartition('.')[2] if name.endswith(CLASS) else write_value(value)}"


def shorten_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name, or as many parts as are needed to tell it from the others."""
    short: dict[str, str] = {}
    ends = [f".{name.removesuffix(CLASS)}" for name in names]
    for name in names:
        parts = name.removesuffix(CLASS).split(".")
        tails = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        clear = (tail for tail in tails if sum(end.endswith(f".{tail}") for end in ends) == 1)
        short[name] = next(clear, name)
    return short


def choose_baseline(methods: Sequence[Method], wanted: str | None) -> tuple[Method | None, list[str]]:
    """The method without plugins, or the one asked for by label; and a remark when the choice is not obvious."""
    if wanted is not None:
        found = [method for method in methods if method.label == wanted]
        if not found:
            labels = ", ".join(f'"{method.label}"' for method in methods)
            raise DiffxError(f'there is no method called "{wanted}". Type --baseline with one of {labels}.')
        return found[0], []
    plain = [method for method in methods if not method.plugins]
    if not plain:
        return None, [
            "no run without plugins: there is no baseline, so no speed-ups. Choose one with --baseline LABEL."
        ]
    if len(plain) == 1:
        return plain[0], []
    nearest = min(plain, key=lambda one: sum(len(find_varied([one.settings, other.settings])) for other in methods))
    return nearest, [
        f'{len(plain)} methods have no plugins; "{nearest.label}" is the baseline, having most settings in common with '
        "the others. Choose another with --baseline LABEL."
    ]


def name_together(methods: Sequence[Method], labels: Iterable[str]) -> str:
    """Labels in a sentence; the many methods of a sweep by the plugins that they share."""
    named = list(labels)
    plugins = [set(method.plugins) for method in methods if method.label in named]
    first = next(method.plugins for method in methods if method.label in named)
    shared = "+".join(name for name in first if all(name in one for one in plugins))
    return f"the {len(named)} methods with {shared}" if len(named) > SEVERAL and shared else join(named)
