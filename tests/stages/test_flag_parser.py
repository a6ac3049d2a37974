# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A mistake in a flag is one line; the private names of argparse do what they must."""

import argparse

import pytest

from parti.stages import flag_parser


def parser():
    made = flag_parser.Parser("parti x", "Does x.", "")
    made.add_argument("--output", required=True)
    made.add_argument("--num", "-n", type=int, default=3)
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--outptu=a"], "unknown flag --outptu; did you mean --output?"),
        (["--output=a", "--zzz"], "unknown flag --zzz; see --help"),
        (["--output=a", "b"], "unexpected argument 'b'; see --help"),
        (["--output=a", "--num=x"], "argument --num/-n: invalid int value: 'x'"),
        ([], "the following arguments are required: --output"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"parti x: {message}\n"


def test_flags_of_others_are_passed_on():
    flags, rest = parser().split(["--output=a", "--runner", "b"], others=["--runner"])
    assert (flags.output, flags.num, rest) == ("a", 3, ["--runner", "b"])


def test_a_local_address_is_its_path():
    flags = parser().parse_args(["--num=3", "--output=file:///a b/{c}"])
    assert flags.output == "/a b/{c}"
    assert parser().parse_args(["--output", "file:///a"]).output == "/a"
    for text in ("gs://a/b", "file://", "of file:///a"):
        assert parser().parse_args(["--output", text]).output == text


def test_names_come_from_argparse():
    made = parser()
    assert all(isinstance(action, argparse.Action) for action in made._actions)
    assert flag_parser.names(made) == ["-h", "--help", "--output", "--num", "-n"]
