"""Command lines whose mistakes end in one clear message instead of a traceback from the depths."""

from __future__ import annotations

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from jaxseg import config_keys

TRACEBACK = "JAXSEG_TRACEBACK"  # an environment variable: show tracebacks for user errors as well
STATUS = 2
OURS = ("jaxseg", "pallas_kernels", "configs")


def run(
    main: Callable[[list[str]], None],
    base: Callable[[], ConfigDict] | None = None,
    arguments: Sequence[str] = (),
) -> NoReturn:
    """`absl.app.run(main)`; a user's mistake is printed as one message, and the exit status is 2.

    Args:
      main: takes the program's name and the arguments that are no flags. Of what it raises, messages of jaxseg and
        errors of the operating system are the user's; everything else keeps its traceback.
      base: gives a config with all keys there are, to name what a mistyped `--config.key` may have been meant to be;
        for a program that takes a `--config`.
      arguments: names of the arguments that are no flags, all of which must be given; the last may be given several
        times if its name ends with "...".
    """
    app.run(
        lambda argv: _call(main, argv, arguments),
        flags_parser=lambda argv: _parse(argv, base, arguments),
    )


def _call(main: Callable[[list[str]], None], argv: list[str], arguments: Sequence[str]) -> None:
    given = argv[1:]
    several = bool(arguments) and arguments[-1].endswith("...")
    if len(given) > len(arguments) and not several:
        _fail(f"Unknown arguments: {' '.join(given[len(arguments) :])}.")
    if len(given) < len(arguments):
        _fail(f"Missing: {' '.join(arguments[len(given) :]).rstrip('.')}. See --help.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        main(argv)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if not isinstance(error, OSError) and not _raised_by_jaxseg(error):
            raise
        _fail(str(error))


def _parse(
    argv: list[str], base: Callable[[], ConfigDict] | None, arguments: Sequence[str]
) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except Exception as error:
        # ml_collections lets through whatever the config file or the assignment raised, or puts its traceback
        # into a message.
        known = config_keys.keys(base()) if base else []
        for argument in argv if known else ():
            name = argument.lstrip("-").partition("=")[0]
            if name.startswith("config.") and name.removeprefix("config.") not in known:
                _fail(
                    f"{argument}: unknown key {config_keys.suggest(name.removeprefix('config.'), known)}."
                )
        _expect_config(argv, known)
        missing = re.findall(r"flag (--\w+)=None: Flag \1 must have a value", str(error))
        if missing:
            if all(argument.startswith("-") for argument in argv[1:]):
                missing = [*arguments, *missing]
            _fail(f"Missing: {', '.join(missing)}. See --help.")
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raised = [line for line in lines if line.partition(":")[0].endswith("Error")]
        _fail(raised[-1].partition(": ")[2] if raised else " ".join(lines))


def _expect_config(argv: Sequence[str], known: Sequence[str]) -> None:
    """Ends the program where keys of a config are set but no config is given."""
    names = {argument: argument.lstrip("-").partition("=")[0] for argument in argv[1:]}
    known = {f"config.{key}" for key in known}
    keys = [argument for argument, name in names.items() if name in known]
    if keys and "config" not in names.values():
        _fail(
            f"{keys[0]} sets a key of a config file, and none is given. Give --config=FILE, too (for a trained run the "
            "config that it was trained with, with the same arguments)."
        )


def _raised_by_jaxseg(error: Exception) -> bool:
    """Whether the innermost frame is our own code, that is, the message was written for the user."""
    file = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    loaded = [sys.modules[name] for name in OURS if name in sys.modules]
    folders = [pathlib.Path(folder).resolve() for module in loaded for folder in module.__path__]
    return any(file.is_relative_to(folder) for folder in folders)


def _fail(message: str) -> NoReturn:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    print(f"{_program()}: {message}", file=sys.stderr)
    sys.exit(STATUS)


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # there is one under `python -m`
    return spec.name.removesuffix(".__main__") if spec else os.path.basename(sys.argv[0])
