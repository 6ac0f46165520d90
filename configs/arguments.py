"""The argument grammar of configs, `--config=FILE:arg,key=value`."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict


class UnknownArgumentError(ValueError):
    """An argument that a config file does not have; one that builds on that file may have more to offer."""


def parse_arg(arg: str | None, **spec) -> ConfigDict:
    """Parses the part of `--config` after the colon.

    `spec` maps each argument to its default: a tuple of strings lists the allowed values (the first is the default), a
    bool is a switch, anything else takes a value of its own type. A bare word is a switch or one of the allowed values:
    `r101,1x,runlocal` equals `backbone=r101,schedule=1x,runlocal=True`.

    Raises:
      UnknownArgumentError: unknown argument (the message lists what is allowed).
      ValueError: a value that is not allowed, or two values for one argument.
    """
    values = {k: v[0] if isinstance(v, tuple) else v for k, v in spec.items()}
    tokens: dict[str, str] = {}
    for token in filter(None, (arg or "").split(",")):
        key, given, value = token.partition("=")
        if not given:
            key, value = _bare(token, spec)
        if key not in spec:
            raise _unknown(token, spec)
        value = _convert(key, value, spec[key])
        if key in tokens and values[key] != value:
            raise ValueError(
                f"Config arguments {tokens[key]} and {token}: both say what {key} is; give one of them."
            )
        values[key], tokens[key] = value, token
    return ConfigDict(values)


def take_args(arg: str | None, **spec) -> tuple[ConfigDict, str]:
    """Parses those parts of `arg` that `spec` knows, and returns the others as they are, for another `parse_arg`."""
    words = {v: k for k, values in spec.items() if isinstance(values, tuple) for v in values}
    tokens = list(filter(None, (arg or "").split(",")))
    own = [t for t in tokens if t.partition("=")[0] in spec or t in words]
    rest = ",".join(t for t in tokens if t not in own)
    return parse_arg(",".join(own), **spec), rest


def config_of(get_config: Callable[[str], ConfigDict], rest: str, more: str) -> ConfigDict:
    """The config of the file that another one builds on. Where it does not know an argument, `more` is told too.

    Raises:
      UnknownArgumentError: with what both files allow.
    """
    try:
        return get_config(rest)
    except UnknownArgumentError as error:
        raise UnknownArgumentError(f"{error} And of {more}.") from None


def _bare(token: str, spec: dict) -> tuple[str, object]:
    if isinstance(spec.get(token), bool):
        return token, "True"
    owners = [k for k, v in spec.items() if isinstance(v, tuple) and token in v]
    if len(owners) != 1:
        raise _unknown(token, spec)
    return owners[0], token


def _unknown(token: str, spec: dict) -> UnknownArgumentError:
    return UnknownArgumentError(f"Unknown config argument {token!r}. Allowed: {_allowed(spec)}.")


def _convert(key: str, value: str, default: object) -> object:
    if isinstance(default, tuple):
        if value not in default:
            raise ValueError(f"Config argument {key}={value!r}: allowed are {', '.join(default)}.")
        return value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"Config argument {key}={value!r}: allowed are True and False.")
        return value.lower() in ("true", "1")
    try:
        return type(default)(value)
    except ValueError:
        kind = type(default).__name__
        raise ValueError(f"Config argument {key}={value!r}: its value must be a {kind}.") from None


def _allowed(spec: dict) -> str:
    words = [
        f"{k}={'|'.join(v)}" if isinstance(v, tuple) else k if isinstance(v, bool) else f"{k}=..."
        for k, v in spec.items()
    ]
    return ", ".join(words)
