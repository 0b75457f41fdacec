"""What Grafana and Prometheus would make of deploy/monitoring, by their own libraries.

    monitoring.py dashboards FILE…    complains of what Grafana's schema doesn't have in each
    monitoring.py names               the metrics that each expression of a JSON list names
"""
import enum
import inspect
import json
import sys
import typing

import promql_parser
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


plugins.register_default_plugins()


def main():
    command, *arguments = sys.argv[1:]
    if command == "dashboards":
        complaints = [f"{path}{what}" for path in arguments for what in check(path)]
        print("\n".join(complaints))
        sys.exit(1 if complaints else 0)
    expressions = json.load(sys.stdin)
    json.dump([sorted(names(promql_parser.parse(text))) for text in expressions], sys.stdout)


def check(path):
    with open(path) as file:
        written = json.load(file)
    yield from misread("", written, Dashboard)


def misread(place, written, kind):
    read = kind.from_json(written)
    yield from lost(place, written, json.loads(json.dumps(read, cls=JSONEncoder)))
    yield from untyped(place, read)


def lost(place, written, read):
    """What the schema doesn't know isn't read."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            if name in read:
                yield from lost(f"{place}.{name}", value, read[name])
            else:
                yield f"{place}.{name}: the schema has no such member"
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for number, (one, other) in enumerate(zip(written, read)):
            yield from lost(f"{place}[{number}]", one, other)
    elif written != read:
        yield f"{place}: is {written!r}, and is read as {read!r}"


def untyped(place, read):
    for name, kind in typing.get_type_hints(type(read)).items():
        yield from unfit(f"{place}.{name}", getattr(read, name), kind)


def unfit(place, value, kind):
    """Reading takes any value for any type, so that is compared here."""
    if not fits(value, kind):
        yield f"{place}: {value!r} is no {kind}"
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from unfit(f"{place}[{number}]", item, object)
    elif inspect.isclass(type(value)) and type(value).__module__.startswith("grafana_foundation_sdk.models"):
        if not isinstance(value, enum.Enum):
            yield from untyped(place, value)


def fits(value, kind):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (object, typing.Any) or isinstance(kind, typing.TypeVar):
        return True
    if origin is typing.Union:
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    if inspect.isclass(kind) and issubclass(kind, enum.Enum):
        return value in [one.value for one in kind] or isinstance(value, kind)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, dict) and hasattr(kind, "from_json"):
        return not list(misread("", value, kind))
    return isinstance(value, kind)


def names(node):
    """Of all vectors that an expression is made of."""
    if isinstance(node, promql_parser.VectorSelector):
        return {node.name}
    found = set()
    for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if getattr(node, part, None) is not None:
            found |= names(getattr(node, part))
    for argument in getattr(node, "args", None) or []:
        found |= names(argument)
    return found


main()
