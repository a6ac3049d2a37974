# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A setting stated once: its check, its default, and the gin file written from it."""

import dataclasses
import pathlib
from typing import Any

import pytest

from parti.engine.config import gin_text
from parti.engine.experiment import experiments, settings

ROOT = pathlib.Path(__file__).resolve().parents[3]
UPDATE = (
    'run python -c "from parti.engine.experiment import experiments as e; '
    'print(e.macros_text(), end=str())" >t5x_configs/runs/settings.gin'
)


@dataclasses.dataclass
class Oven:
    """A few settings, and a field that is none."""

    recipe: str = settings.field("what to bake", t5x=True)
    degrees: float = settings.field(
        "Celsius", 180.0, allowed=settings.Allowed("below 250", lambda value: value < 250)
    )
    minutes: int = settings.field("in the oven", 30, allowed=settings.whole_number(1), t5x=True)
    rounds: int | None = settings.field(
        "None: all", None, allowed=settings.whole_number(0, or_none=True), immaterial=True
    )
    fan: str = settings.field("its speed", "off", allowed=settings.one_of(("off", "on")))
    note: str = ""


def test_settings_of_a_dataclass() -> None:
    stated = settings.of(Oven)
    assert list(stated) == ["recipe", "degrees", "minutes", "rounds", "fan"]
    assert [name for name, setting in stated.items() if setting.t5x] == ["recipe", "minutes"]
    assert [name for name, setting in stated.items() if setting.immaterial] == ["rounds"]
    assert Oven("cake").minutes == 30
    with pytest.raises(TypeError):
        Oven()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"degrees": 250}, "DEGREES must be below 250, got 250"),
        ({"minutes": 0}, "MINUTES must be a whole number of at least 1, got 0"),
        ({"minutes": 2.0}, "MINUTES must be a whole number of at least 1, got 2.0"),
        ({"minutes": True}, "MINUTES must be a whole number of at least 1, got True"),
        ({"minutes": None}, "MINUTES must be a whole number of at least 1, got None"),
        ({"rounds": -1}, "ROUNDS must be a whole number of at least 0, got -1"),
        ({"fan": "fast"}, "FAN must be 'off' or 'on', got 'fast'"),
    ],
)
def test_what_is_not_allowed(changes: dict[str, Any], message: str) -> None:
    settings.check(Oven("cake"))
    with pytest.raises(ValueError) as caught:
        settings.check(Oven(**{"recipe": "cake", **changes}))
    assert str(caught.value) == message


def test_gin_text() -> None:
    text = settings.gin_text(Oven)
    both, alone = text.split("# The embedded engine alone")
    assert list(gin_text.macros(both)) == ["RECIPE", "MINUTES"]
    assert "RECIPE = %gin.REQUIRED          # what to bake\n" in both
    assert gin_text.macros(alone.partition("\n")[2]) == {
        "DEGREES": 180.0,
        "ROUNDS": None,
        "FAN": "off",
    }


def test_the_run_files_macros_are_the_fields() -> None:
    written = (ROOT / "t5x_configs/runs/settings.gin").read_text(encoding="utf-8")
    assert written == experiments.macros_text(), UPDATE
    names = {name.upper() for name in settings.of(experiments.Experiment)}
    assert gin_text.macros(written).keys() == names
    fields = {field.name for field in dataclasses.fields(experiments.Experiment)}
    assert fields - {name.lower() for name in names} == {"config", "model_config"}
    assert all(setting.doc for setting in settings.of(experiments.Experiment).values())


def test_an_allowed_default() -> None:
    for name, setting in settings.of(experiments.Experiment).items():
        if setting.allowed and setting.default is not dataclasses.MISSING:
            setting.allowed.check(name, setting.default)
