import pathlib
import subprocess
import sys

import pytest

from jaxseg import cli, config_keys

ROOT = pathlib.Path(__file__).parent.parent


def raised(function):
    try:
        function()
    except ValueError as error:
        return error
    raise AssertionError("nothing was raised")


def test_only_messages_from_our_own_folders_are_the_users(tmp_path):
    assert cli._raised_by_jaxseg(
        raised(lambda: exec(compile("raise ValueError", config_keys.__file__, "exec")))
    )
    # A checkout in a folder of the same name does not make the errors of others ours.
    other = tmp_path / "jaxseg" / "venv" / "numpy.py"
    assert not cli._raised_by_jaxseg(
        raised(lambda: exec(compile("raise ValueError", str(other), "exec")))
    )


@pytest.mark.parametrize("argument", ["--config.optim.lrr=1", "--nosuch=1"])
def test_a_program_without_a_config_explains_a_wrong_flag(argument):
    code = "from jaxseg import cli; cli.run(lambda argv: None)"
    done = subprocess.run(
        [sys.executable, "-c", code, argument], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "Unknown command line flag" in done.stderr


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "Missing: SOURCE"),
        (["a", "b"], "Unknown arguments: b"),
        (["a"], "a"),
    ],
)
def test_arguments_that_are_no_flags(given, message):
    code = "from jaxseg import cli; cli.run(lambda argv: print(argv[1:][0]), arguments=['SOURCE'])"
    done = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode == 0) == (len(given) == 1)
    assert message in done.stdout + done.stderr


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "Missing: SOURCE, --to, --in. See --help."),
        (["a", "--in=b"], "Missing: --to. See --help."),
    ],
)
def test_what_must_be_given_is_asked_for_at_once(given, message):
    code = (
        "from absl import flags; from jaxseg import cli; "
        "[flags.DEFINE_string(name, None, '', required=True) for name in ('to', 'in')]; "
        "cli.run(lambda argv: None, arguments=['SOURCE'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.strip() == f"-c: {message}"


@pytest.mark.parametrize("given", [[], ["a"], ["a", "b", "c"]])
def test_an_argument_that_may_be_given_several_times(given):
    code = "from jaxseg import cli; cli.run(lambda argv: print(argv[1:]), arguments=['WORKDIR...'])"
    done = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode == 0) == bool(given)
    assert (str(given) if given else "Missing: WORKDIR. See") in done.stdout + done.stderr
