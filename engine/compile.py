# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti compile`: will it fit, how many FLOPs, what does it send; no accelerator is needed."""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Sequence

from parti.engine.experiment import experiments
from parti.engine.hardware import accelerators
from parti.engine.inference import layouts
from parti.engine.pod_estimates import compile_step, device_memory
from parti.models.text_to_image import decode_order, sampling
from parti.stages import flag_parser

EXAMPLE = """\
  --gin.NAME=VALUE  overrides a macro or parameter, as in `parti train`

What would help a train step that does not fit is compiled too, until something fits.

example: parti compile --gin_file=t5x_configs/experiments/parti_3b.gin --topology=v4:4x4x4
exit code: 0 it fits (or there is no limit to tell), 1 it does not, 2 bad usage
"""
GIN, FILE = "--gin.", "--gin_file="
MOST_TRIES = 4  # of what is advised; each is a compilation


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = flag_parser.Parser(
        "parti compile",
        "Compiles a train step, or generation, for devices that need not be there, and says what "
        "it needs. Neither data nor vocabulary is read.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("--gin_file", action="append", required=True, metavar="FILE", help="as of `parti train`")
    add("--topology", required=True, metavar="NAME", help=accelerators.FORMS)
    programs = (compile_step.TRAIN, compile_step.GENERATE)
    add("--program", choices=programs, default=programs[0], help="default: train")
    add("--num_prompts", type=int, metavar="N", help="of generation; default: one per data shard")
    add("--num_samples", type=int, default=16, metavar="N", help="of each prompt (default: 16)")
    add("--decode_order", choices=decode_order.ORDERS, help="of generation (default: raster)")
    add("--queue", type=int, metavar="N", help="of a wavefront, as of `parti generate`")
    layouts.add_flags(parser)
    add("--memory", type=float, metavar="GIB", help="of a device; default: all it has")
    add("--json", type=pathlib.Path, metavar="FILE", help="also writes the report there")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs `parti compile`; raises ValueError for bad flags, or if the devices do not fit."""
    bindings = [argument.removeprefix(GIN) for argument in argv if argument.startswith(GIN)]
    flags = make_parser().parse_args([a for a in argv if not a.startswith(GIN)])
    _check(flags)
    target = accelerators.target(flags.topology)
    if flags.memory:
        target = dataclasses.replace(target, memory=int(flags.memory * accelerators.GIB))
    report = _compile(flags, target, bindings)
    print(text(report), flush=True)
    if report.fits is False:
        report = dataclasses.replace(report, advice=_try(flags, target, bindings, report))
        print("", *_advised(report), sep="\n")
    if flags.json:
        content = {"gin_file": flags.gin_file, "bindings": bindings, **dataclasses.asdict(report)}
        flags.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if report.fits is False else 0


def _compile(
    flags: argparse.Namespace,
    target: accelerators.Target,
    bindings: Sequence[str],
    more: Sequence[str] = (),
) -> compile_step.Report:
    """Compiles what the command asks for, with more flags."""
    gin_files = [*flags.gin_file, *(f.removeprefix(FILE) for f in more if f.startswith(FILE))]
    changes = [flag.removeprefix(GIN) for flag in more if flag.startswith(GIN)]
    # Nothing is written there, and nothing read.
    experiment, lengths = experiments.load_without_data(
        gin_files, ["MODEL_DIR='.'", "INITIAL=None", *bindings, *changes]
    )
    changed = f" with {' '.join(more)}" if more else ""
    what = f"{flags.program} for {target.name}{changed}"
    print(f"[compile] {what}: minutes, if it is large", file=sys.stderr)
    if flags.program == compile_step.TRAIN:
        spec = compile_step.element_spec(experiment, lengths)
        return compile_step.compile_train_step(experiment, spec, target)
    weights = layouts.INT8 if layouts.INT8_FLAG in more else flags.weights
    if flags.layout or flags.mesh_shape:
        layout = layouts.read(flags.layout, flags.mesh_shape, weights)
    else:
        layout = compile_step.layout_of(experiment, int8=weights == layouts.INT8)
    drawn = flags.num_prompts, flags.num_samples
    settings = sampling.SamplingSettings(
        decode_order=flags.decode_order or decode_order.RASTER, queue=flags.queue or 1
    )
    return compile_step.compile_generation(experiment, target, *drawn, layout, settings)


def _try(
    flags: argparse.Namespace,
    target: accelerators.Target,
    bindings: Sequence[str],
    report: compile_step.Report,
) -> list[device_memory.Advice]:
    """Compiles what a report advises until something fits; what does not is advised further on.

    Returns:
      All that was advised, in that order; what fits first.
    """
    pending, left = list(report.advice), MOST_TRIES
    tried: list[device_memory.Advice] = []
    while pending:
        advice = pending.pop(0)
        if advice.flags and left:
            left -= 1
            try:
                found = _compile(flags, target, bindings, advice.flags)
            except ValueError as error:  # such as a mesh that the command sets
                advice = dataclasses.replace(advice, text=f"{advice.text}; refused: {error}")
            else:
                compiled = sum(found.memory.values())
                advice = dataclasses.replace(advice, compiled=compiled, fits=found.fits)
                if found.fits:
                    return [advice, *tried, *pending]
                further = (_added(advice.flags, other) for other in found.advice if other.flags)
                known = {one.flags for one in (*tried, *pending)}
                pending = [one for one in further if one.flags not in known] + pending
        tried.append(advice)
    return tried


def _added(flags: Sequence[str], advice: device_memory.Advice) -> device_memory.Advice:
    """Returns advice that was given to a command with these flags, with them."""
    set_anew = {flag.partition("=")[0] for flag in advice.flags} - {FILE.rstrip("=")}
    kept = (flag for flag in flags if flag.partition("=")[0] not in set_anew)
    return dataclasses.replace(advice, flags=(*kept, *advice.flags))


def _check(flags: argparse.Namespace) -> None:
    for name in ("num_prompts", "num_samples", "queue", "memory"):
        value = getattr(flags, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name} is {value}; it must be more than 0")
    for name in ("num_prompts", "layout", "mesh_shape", "weights", "decode_order", "queue"):
        if getattr(flags, name) and flags.program != compile_step.GENERATE:
            raise ValueError(
                f"--{name} is for --program generate; of a training all is in its experiment"
            )
    if flags.json and not flags.json.parent.is_dir():
        raise FileNotFoundError(f"--json {flags.json}: no folder {flags.json.parent}")


def text(report: compile_step.Report) -> str:
    """Returns a report for people."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in report.mesh.items())
    if report.program == compile_step.TRAIN:
        what = f"a train step of {report.batch} examples in {report.num_microbatches} part(s)"
    else:
        what = f"drawing {report.batch} images in {report.num_steps:,} steps"
    lines = [
        f"{what}, {report.num_params:,} parameters, on {report.topology} as {mesh}",
        "",
        "memory of a device",
        *device_memory.table(report.memory, report.available),
        *_verdict(report),
        "",
        *_work(report),
        "",
        *_traffic(report),
        "",
        f"lowered in {report.seconds['lower']} s, compiled in {report.seconds['compile']} s "
        f"({report.seconds['compile_cpu']} s of CPU); "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    ]
    return "\n".join(lines)


def _verdict(report: compile_step.Report) -> list[str]:
    if report.fits is None:
        return ["  no limit is known here; --memory=GIB gives one"]
    return ["  it fits" if report.fits else "  it does not fit"]


def _advised(report: compile_step.Report) -> list[str]:
    return ["what would help:", *(f"  - {advice}" for advice in report.advice)]


def _work(report: compile_step.Report) -> list[str]:
    lines = [f"FLOPs of the model   {report.model_flops:.4g}"]
    if report.program_flops != report.model_flops:
        more = report.program_flops / report.model_flops - 1
        lines.append(
            f"FLOPs of the program {report.program_flops:.4g} ({more:+.0%}: what is computed again "
            "or idly)"
        )
    if report.peak_flops:
        rate = math.prod(report.mesh.values()) * report.peak_flops
        lines.append(
            f"at the peak rate of all devices, {rate:.3g} FLOP/s: {report.model_flops / rate:.3g} s"
        )
    return lines


def _traffic(report: compile_step.Report) -> list[str]:
    if report.collectives is None:
        return ["collectives: not known, the compiler stopped at the memory"]
    if not report.collectives:
        return ["no collectives"]
    lines = ["collectives of a device            count        size"]
    lines += [
        f"  {kind:<24}  {traffic.count:>12,}  {device_memory.format_bytes(traffic.num_bytes):>10}"
        for kind, traffic in report.collectives.items()
    ]
    if not report.is_exact:
        lines.append("  some are in loops of unknown length, and counted for one turn")
    return lines
