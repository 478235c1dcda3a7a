"""A model that a verb compiles or runs, together with what is asked for."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _options, _streams, _weights

if TYPE_CHECKING:
    from migx.pipeline import Pipeline
    from migx.program import Program
    from migx.target import CompileOptions


@dataclass
class Session:
    """A program, its target, and the options given.

    ``recorded`` are the options that the program's file was compiled with, by the target: those for
    ``target`` are the defaults of ``asked``. ``sizes`` are given for symbols that are not bound.
    """

    options: argparse.Namespace
    program: Program
    target: str
    recorded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, options: argparse.Namespace, *, to_run: bool = False) -> Session:
        """The model asked for, with the sizes given for its dims. Its target is the one asked for,
        or the one its file is compiled for, or cpu.

        A program ``to_run`` on random inputs, whose file has it compiled as asked for, is not
        changed: its inputs are drawn at these sizes.
        """
        _weights.given(options)  # options without it are refused before the model is read
        with _streams.progress(f"reading {Path(options.model).name}"):
            program = _load.read(options)
            made = cls(options, program, *_recorded(program, options.target))
            if sizes := _load.given_sizes(options):
                from migx.specialise import check_sizes

                if to_run and options.inputs is None and made.ready:
                    check_sizes(program, sizes)
                    made.sizes = sizes
                else:
                    made.program = _load.bound(program, sizes, options)
        if options.activations == "int8" and options.passes is None:
            _expect_few_bits(made.program, options)
        _weights.have_replaced(made.program, options)
        return made

    @property
    def asked(self) -> dict[str, Any]:
        """The options of a compilation, as keywords of ``Program.compile``: those given, and for
        others the recorded ones. Passes that are given replace all of these but the number of
        threads.
        """
        given, recorded = _options.compiling(self.options), self.recorded.get(self.target, {})
        kept = recorded.keys() & {"num_threads"} if "passes" in given else recorded
        return {name: recorded[name] for name in kept} | given

    @property
    def _asked(self) -> CompileOptions:
        from migx.target import CompileOptions

        return CompileOptions(**self.asked)

    @property
    def plain(self) -> bool:
        """Whether nothing but the target's defaults is asked for."""
        from migx.target import CompileOptions

        return self._asked == CompileOptions()

    @property
    def ready(self) -> bool:
        """Whether the program is compiled as asked for."""
        made = self.program._compiled
        if made is None or made.revision != self.program.revision:
            return False
        return self.recorded.get(self.target) == self._asked.plain()

    @property
    def pipeline(self) -> Pipeline:
        """The passes asked for, or those that the target lists."""
        from migx.target import get_target, passes_for

        return passes_for(get_target(self.target), asked=self._asked)

    def inputs(self, *, apart: bool = False) -> tuple[dict[str, Any], dict[str, int]]:
        """The inputs, and the sizes chosen in order to draw them: see ``read_or_drawn``."""
        from migx.cli._inputs import read_or_drawn

        return read_or_drawn(self.program, self.options, self.sizes, apart=apart)

    def compile(self) -> float:
        """Compiles the program as asked for, unless it already is, and puts in the weights asked
        for; returns the seconds that compilation takes.
        """
        start = time.perf_counter()
        if not self.ready:
            with _streams.progress(f"compiling for {self.target}"):
                self.program.compile(self.target, **self.asked)
        taken = time.perf_counter() - start
        self.program = _weights.replaced(self.program, self.options)
        return taken


def _recorded(program: Program, asked: str | None) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    """The target of a program just loaded, which may be asked for by its name alone, and the
    options it is compiled with.
    """
    if program._compiled is None:
        return asked or "cpu", {}
    from migx.pipeline import with_options

    made = program._compiled.context
    text = with_options(made.target.name, made.target)
    target = text if asked in (None, made.target.name) else asked
    return target, {text: made.options.plain()}


def _expect_few_bits(program: Program, options: argparse.Namespace) -> None:
    """``UsageError`` for int8 activations without weights of four or eight bits."""
    squeezed = any(getattr(options, name, False) for name in ("int4_weights", "int8_weights"))
    held = (at.name for at in program.instructions())
    if not squeezed and {"unpack_int4", "dequantizelinear"}.isdisjoint(held):
        raise _load.UsageError(
            f"--activations int8 is for weights of four bits or eight, and {options.model} has "
            "none: `migx compile --int4-weights` or --int8-weights makes them"
        )
