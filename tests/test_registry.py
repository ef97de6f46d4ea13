"""Parts by name: what a recipe may say, and what it is told where it may not."""

from collections import OrderedDict

import pytest

from speechllm.errors import UserError, did_you_mean
from speechllm.registry import ADAPTERS, FUSIONS, METRICS, Registry


class Stack:
    def __init__(self, in_dim, out_dim, stride=4, bias=True):
        self.settings = (in_dim, out_dim, stride, bias)


class Table:
    def __init__(self, in_dim, rows, columns, out_dim):
        self.settings = (in_dim, rows, columns, out_dim)


class Plain:
    pass


@pytest.fixture
def parts():
    registry = Registry("adapter", builder_args=("in_dim", "out_dim"))
    registry.register("stack")(Stack)
    registry.register("table")(Table)
    registry.register("plain")(Plain)
    return registry


def message_of(function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    return str(error.value)


def test_build_passes_options_and_builder_args(parts):
    part = parts.build({"name": "stack", "stride": 2}, in_dim=8, out_dim=16)
    assert isinstance(part, Stack)
    assert part.settings == (8, 16, 2, True)
    assert parts.build(OrderedDict(name="table", columns=3, rows=2), in_dim=1, out_dim=4).settings == (1, 2, 3, 4)


def test_build_leaves_the_spec_as_it_was(parts):
    spec = {"name": "stack", "stride": 2}
    parts.build(spec, in_dim=8, out_dim=16)
    assert spec == {"name": "stack", "stride": 2}


def test_names_are_sorted_and_get_returns_the_class(parts):
    assert parts.names() == ["plain", "stack", "table"]
    assert parts.get("stack") is Stack


def test_register_returns_the_class(parts):
    assert parts.register("again")(Plain) is Plain


def test_builder_args_are_no_options(parts):
    assert list(parts.options("stack")) == ["stride", "bias"]
    message = message_of(parts.check, {"name": "stack", "in_dim": 8})
    assert message == "The adapter 'stack' does not take 'in_dim'. It takes: stride, bias."


def test_unknown_name_gets_the_near_match(parts):
    message = "Unknown adapter 'stak'. Did you mean 'stack'? Registered: plain, stack, table."
    assert message_of(parts.get, "stak") == message
    assert message_of(parts.check, {"name": "stak", "stride": 2}) == message
    assert message_of(parts.build, {"name": "stak"}, in_dim=1, out_dim=1) == message


def test_unknown_name_without_a_near_match(parts):
    assert message_of(parts.get, "zzz") == "Unknown adapter 'zzz'. Registered: plain, stack, table."
    assert message_of(Registry("encoder").get, "zzz") == "Unknown encoder 'zzz'. Registered: none."


def test_unknown_option_gets_the_near_match(parts):
    message = message_of(parts.check, {"name": "stack", "strid": 2})
    assert message == "The adapter 'stack' does not take 'strid'. Did you mean 'stride'? It takes: stride, bias."


def test_every_unknown_option_is_named(parts):
    message = message_of(parts.check, {"name": "stack", "strid": 2, "qqq": 1})
    assert message.startswith("The adapter 'stack' does not take 'strid', 'qqq'.")
    assert message_of(parts.check, {"name": "plain", "x": 1}).endswith("does not take 'x'. It takes: no options.")


def test_missing_options_are_named(parts):
    assert message_of(parts.check, {"name": "table"}) == "The adapter 'table' needs 'rows', 'columns'."
    assert message_of(parts.check, {"name": "table", "rows": 1}) == "The adapter 'table' needs 'columns'."
    parts.check({"name": "table", "rows": 1, "columns": 2})


@pytest.mark.parametrize("spec", ["stack", None, {}, {"stride": 2}, {"name": None}, {"name": 3}, ["stack"]])
def test_a_spec_is_a_mapping_with_a_name(parts, spec):
    message = message_of(parts.check, spec)
    assert message == f"The adapter needs a mapping with a 'name', such as {{name: plain}}; got {spec!r}."


def test_check_builds_nothing():
    registry = Registry("adapter")

    @registry.register("loud")
    class Loud:
        def __init__(self, size=1):
            raise AssertionError

    registry.check({"name": "loud", "size": 2})


def test_a_taken_name_is_refused(parts):
    class Other:
        pass

    with pytest.raises(RuntimeError, match=r"The adapter name 'stack' is taken by .*Stack\."):
        parts.register("stack")(Other)
    assert parts.get("stack") is Stack


def test_the_same_class_may_register_again(parts):
    """A notebook runs the cell of a class more than once; the last definition holds."""
    again = type("Stack", (Stack,), {"__qualname__": Stack.__qualname__, "__module__": Stack.__module__})
    parts.register("stack")(again)
    assert parts.get("stack") is again


def test_widths_and_languages_never_stand_in_a_recipe():
    assert ADAPTERS.builder_args == ("in_dim", "out_dim", "vocab_size", "frame_rate")
    assert FUSIONS.builder_args == ("in_dims",)
    assert METRICS.builder_args == ("language",)


@pytest.mark.parametrize(
    ("given", "hint"),
    [("whispr", " Did you mean 'whisper'?"), ("conv", ""), ("", ""), ("hubret", " Did you mean 'hubert'?")],
)
def test_did_you_mean(given, hint):
    assert did_you_mean(given, iter(["whisper", "hubert"])) == hint


class Typed:
    def __init__(self, size: int = 4, rate: float = 0.1, on: bool = False, limit: int | None = None, more: list = ()):
        self.size = size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "abc"}, "`size` of the part 'typed' must be a whole number, but is 'abc'"),
        ({"size": 24.5}, "must be a whole number, but is 24.5"),
        ({"size": True}, "must be a whole number, but is True"),
        ({"rate": "1e-4x"}, "`rate` of the part 'typed' must be a number, but is '1e-4x'"),
        ({"on": 1}, "must be true or false, but is 1"),
        ({"limit": "none"}, "`limit` of the part 'typed' must be a whole number or null, but is 'none'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(options, message):
    parts = Registry("part")
    parts.register("typed")(Typed)
    with pytest.raises(UserError, match=message):
        parts.check({"name": "typed", **options})


def test_values_of_the_right_kind_pass():
    parts = Registry("part")
    parts.register("typed")(Typed)
    spec = {"name": "typed", "size": 3, "rate": 1, "on": True, "limit": None, "more": "anything"}
    assert parts.build(spec).size == 3
