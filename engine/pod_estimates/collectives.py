# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Counts the collectives of a compiled program: it parses XLA's HLO text."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
# Name, type (of an array or a tuple, whose layouts may hold parentheses), operation, the rest.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_OPERAND = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|\w+_computations?)=\{?((?:%[\w.-]+(?:, )?)+)"  # not the condition
)
_CONDITION = re.compile(r"condition=%([\w.-]+)")
_KNOWN_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NUMBER = re.compile(r"^(-?\d+)\)")
# A TPU's reduce-scatter is a fusion of this name, of an all-reduce and a slice.
_REDUCE_SCATTER = "all-reduce-scatter"
_WIDTH = re.compile(r"[a-z]+(\d+)")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The collectives of one kind in one run of a program."""

    count: int = 0
    num_bytes: int = 0  # of their arrays on one device, before or after, whichever is more


@dataclasses.dataclass(frozen=True)
class Summary:
    """All collectives of a program."""

    kinds: Mapping[str, Traffic]  # only those that the program has
    # False if some are in a loop of a number of turns that the text does not tell, counted as one.
    is_exact: bool


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    operation: str
    rest: str  # from the first operand on


_Computations = dict[str, list[_Instruction]]


def summarize(text: str) -> Summary:
    """Adds up the collectives in `jax.stages.Compiled.as_text`, in a loop as often as it turns.

    Of a conditional all branches are counted.
    """
    computations, entry = _parse(text)
    totals: dict[str, list[int]] = {}
    is_exact = True
    for name, times, is_known in _runs(computations, entry):
        types = {instruction.name: instruction.type for instruction in computations[name]}
        for instruction in computations[name]:
            kind = instruction.operation.removesuffix("-start")
            if kind in KINDS:
                kind = "reduce-scatter" if name.startswith(_REDUCE_SCATTER) else kind
                is_exact &= is_known
                total = totals.setdefault(kind, [0, 0])
                total[0] += times
                total[1] += times * _transferred(instruction, types)
    return Summary({kind: Traffic(*totals[kind]) for kind in sorted(totals)}, is_exact)


def _parse(text: str) -> tuple[_Computations, str]:
    """Returns the computations of a module and the name of the first one to run."""
    computations: _Computations = {}
    entry, current = "", None
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            if current is not None:
                current.append(_Instruction(*match.groups()))
        elif match := _COMPUTATION.match(line):
            current = computations.setdefault(match.group(2), [])
            entry = match.group(2) if match.group(1) else entry
    return computations, entry


def _runs(
    computations: _Computations, name: str, times: int = 1, is_known: bool = True
) -> Iterator[tuple[str, int, bool]]:
    """Yields each computation that one leads to, how often it runs, and whether that is known.

    A computation comes once for each place that calls it.
    """
    yield name, times, is_known
    for instruction in computations[name]:
        if instruction.operation in ("async-update", "async-done"):  # they repeat async-start
            continue
        turns: int | None = 1
        if instruction.operation == "while":
            turns = _turns(instruction, computations)
        for names in _CALLED.findall(instruction.rest):
            for called in _OPERAND.findall(names):
                known = is_known and turns is not None
                yield from _runs(computations, called, times * (turns or 1), known)


def _turns(loop: _Instruction, computations: _Computations) -> int | None:
    """Returns how often a loop turns: as noted, or as its condition `i < number` says (from 0)."""
    if noted := _KNOWN_TURNS.search(loop.rest):
        return int(noted.group(1))
    condition = _CONDITION.search(loop.rest)
    if condition is None:
        return None
    body = computations[condition.group(1)]
    numbers = {
        instruction.name: int(number.group(1))
        for instruction in body
        if instruction.operation == "constant" and (number := _NUMBER.match(instruction.rest))
    }
    for instruction in body:
        if instruction.operation == "compare" and "direction=LT" in instruction.rest:
            operands = _OPERAND.findall(instruction.rest.partition(")")[0])
            return numbers.get(operands[1])
    return None


def _transferred(instruction: _Instruction, types: Mapping[str, str]) -> int:
    operands = _OPERAND.findall(instruction.rest.partition(")")[0])
    before = sum(_size(types[name]) for name in operands)
    after = _size(instruction.type)
    if instruction.operation.endswith("-start"):  # its type has the operands besides the results
        after -= before
    return max(before, after)


def _size(type_text: str) -> int:
    """Returns the bytes of an array, or of the arrays of a tuple."""
    bits = 0
    for dtype, dimensions in _ARRAY.findall(type_text):
        width = _WIDTH.match(dtype)  # bf16, s8, f8e4m3fn; but pred has none
        size = math.prod(int(dimension) for dimension in dimensions.split(",") if dimension)
        bits += size * (int(width.group(1)) if width else 8)
    return bits // 8
