import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag import serial
from selfrag.errors import BadInput, ConfigError


class Mode(StrEnum):
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    relevance: float = 1.0

    def __post_init__(self):
        serial.check_config(self, "decode.weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    mode: Mode = Mode.ALWAYS
    top_k: serial.Count = 5
    threshold: serial.Share | None = 0.2
    weights: Weights = field(default_factory=Weights)
    drop: bool = False
    choices: tuple[str, ...] = ()
    seconds: serial.Positive | None = None

    def __post_init__(self):
        serial.check_config(self, "decode", doing="search")


@dataclass(frozen=True, kw_only=True)
class Named:
    name: str
    config: Config = field(default_factory=Config)


def test_words_lists_and_numpy_scalars_become_what_the_type_says():
    config = Config(mode="never", choices=["a", "b"], top_k=np.int64(3), threshold=np.float64(1))
    assert config.mode is Mode.NEVER
    assert config.choices == ("a", "b")
    assert type(config.top_k) is int and config.top_k == 3
    assert type(config.threshold) is float and config.threshold == 1.0
    assert type(Config(threshold=1).threshold) is float


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("mode", "sometimes", "one of always, never"),
        ("mode", None, "one of always, never"),
        ("top_k", 2.5, "a whole number of at least 1"),
        ("top_k", 0, "a whole number of at least 1"),
        ("top_k", True, "a whole number of at least 1"),
        ("top_k", "3", "a whole number of at least 1"),
        ("threshold", 1.01, "a number from 0 to 1 or none"),
        ("threshold", float("nan"), "a number from 0 to 1 or none"),
        ("seconds", 0, "a number above 0 or none"),
        ("seconds", float("inf"), "a number above 0 or none"),
        ("weights", {}, "a Weights"),
        ("weights", {"relevance": 2.0}, "a Weights"),
        ("drop", "false", "true or false"),
        ("drop", 1, "true or false"),
        ("choices", "yes,no", "a list of strings"),
        ("choices", [1, 2], "a list of strings"),
    ],
)
def test_a_value_of_another_type_or_range_is_refused_by_name(name, value, wanted):
    with pytest.raises(ConfigError) as caught:
        Config(**{name: value})
    assert str(caught.value).startswith(f"cannot search: decode.{name} is {value!r}; expected ")
    assert f"expected {wanted}, so " in str(caught.value)


def test_settings_of_nested_tables():
    config = serial.config_from(Config, {"mode": "never", "weights": {"relevance": 2}})
    assert config == Config(mode=Mode.NEVER, weights=Weights(relevance=2.0))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"modes": 1}, "cannot set decode.modes: there is no such setting; expected one of mode, "),
        ({"weights": {"x": 1}}, "cannot set decode.weights.x: there is no such setting"),
        ({"weights": {"relevance": "a"}}, "decode.weights.relevance is 'a'; expected a number"),
        ({"weights": 3}, "decode.weights is 3; expected a Weights"),
        ({"mode": "x"}, "decode.mode is 'x'; expected one of always, never"),
    ],
)
def test_a_key_or_value_of_a_table_is_refused_by_name(data, said):
    with pytest.raises(ConfigError) as caught:
        serial.config_from(Config, data, table="decode")
    assert said in str(caught.value)


def test_a_missing_setting_is_named():
    with pytest.raises(ConfigError, match=r"run\.name is missing; expected a string"):
        serial.config_from(Named, {}, table="run")
    assert serial.config_from(Named, {"name": "x"}).config == Config()


def test_overrides_are_read_as_their_types_say():
    pairs = ["mode=never", "decode.top_k = 7", "threshold=none", "weights.relevance=2", "drop=yes"]
    assert serial.override(Config(), pairs, table="decode") == Config(
        mode=Mode.NEVER, top_k=7, threshold=None, weights=Weights(relevance=2.0), drop=True
    )
    assert serial.override(Config(), ["threshold=.5", "weights.relevance= .25"]) == Config(
        threshold=0.5, weights=Weights(relevance=0.25)
    )
    assert serial.override(Named(name="n"), ["name=.5"]) == Named(name=".5")
    assert serial.override(Config(), ["choices=a, , b,"]).choices == ("a", "b")
    assert serial.override(Config(), ["choices=a, b|c"]).choices == ("a, b", "c")
    assert serial.override(Named(name="n"), ["config.drop=no", "name=x=y"]) == Named(name="x=y")
    assert serial.override(Config(top_k=3), []) == Config(top_k=3)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("mode=sometimes", "cannot set mode to 'sometimes': expected one of always, never"),
        ("top_k=2.5", "cannot set top_k to '2.5': expected a whole number of at least 1"),
        ("top_k=none", "cannot set top_k to 'none'"),
        ("top_k=0", "cannot set top_k to '0'"),
        ("seconds=nan", "cannot set seconds to 'nan'"),
        ("seconds=inf", "cannot set seconds to 'inf'"),
        ("drop=maybe", "cannot set drop to 'maybe': expected true or false"),
        ("tops=1", "cannot set tops: there is no such setting; expected one of mode, top_k"),
        ("weights=1", "cannot set weights: there is no such setting"),
        ("weights.x=1", "cannot set weights.x: there is no such setting"),
        ("mode.x=never", "cannot set mode: there is no such setting"),
    ],
)
def test_an_override_that_does_not_fit_is_refused_by_name(pair, said):
    with pytest.raises(ConfigError) as caught:
        serial.override(Config(), [pair], table="decode")
    assert said in str(caught.value)


@pytest.mark.parametrize("pair", ["top_k", "", "=3", " = "])
def test_what_is_no_pair_is_bad_input(pair):
    with pytest.raises(BadInput, match="expected key=value"):
        serial.override(Config(), [pair])


def test_a_field_and_a_table_of_one_name_exclude_each_other():
    with pytest.raises(ConfigError, match="there is no such setting"):
        serial.override(Config(), ["weights=1", "weights.relevance=2"])


def test_json_has_the_form_of_the_standard_library():
    row = {"b": [1, 2.5, None, True], "a": "é", "mode": Mode.NEVER, "w": Weights()}
    assert serial.json_text(row) == (
        '{"b": [1, 2.5, null, true], "a": "é", "mode": "never", "w": {"relevance": 1.0}}'
    )
    assert serial.json_text({"a": [1]}, indent=1) == '{\n "a": [\n  1\n ]\n}'


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_a_line_of_json_is_one_line_and_reads_back(value):
    line = serial.json_line(value)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert json.loads(line) == value


def test_half_a_surrogate_pair_is_written_as_its_escape():
    assert serial.json_line({"a": "\ud800é"}) == '{"a": "\\ud800é"}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_never_holds_what_is_no_number(value):
    with pytest.raises(ValueError):
        serial.json_line({"a": [value]})


def test_builtins_become_dataclasses_and_further_keys_are_ignored():
    data = {"mode": "never", "weights": {"relevance": 2}, "more": 1}
    assert serial.from_builtins(Config, data).weights == Weights(relevance=2.0)
    with pytest.raises(ValueError, match=r"\$.mode"):
        serial.from_builtins(Config, {"mode": "x"})


def test_toml_files(tmp_path: Path):
    path = tmp_path / "a.toml"
    path.write_bytes(b'\xef\xbb\xbf[decode]\nmode = "never"\n')
    assert serial.read_toml(path) == {"decode": {"mode": "never"}}
    for content in (b"a = ", b"a = '\xff'"):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"cannot read recipe from .*so fix the file"):
            serial.read_toml(path, "recipe")
    with pytest.raises(BadInput, match="No such file"):
        serial.read_toml(tmp_path / "none.toml")
