"""The command line: verbs to calls. The only package that parses arguments, prints results or exits.

Results go to stdout, progress and messages to stderr. What is wrong with the user's input is one message and exit code
1. Nothing heavy is imported before a verb needs it: ``--help`` answers at once. One module a group of verbs:
``init``, ``studies``, ``prepare``, ``steps`` (one plug-in each), ``fidelity``, ``evidence`` (predictions to numbers and
words), ``worth``, ``challenge``, ``masks``, ``reader`` and ``planning``.
"""

import errno
import signal
import sys

import typer

from moulage import openings
from moulage.cli import evidence, planning, steps, studies
from moulage.cli.challenge import challenge
from moulage.cli.common import fail
from moulage.cli.fidelity import fidelity
from moulage.cli.init import init
from moulage.cli.masks import masks
from moulage.cli.prepare import prepare
from moulage.cli.reader import reader
from moulage.cli.worth import worth
from moulage.errors import MoulageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Do generated images help a classifier of rare diseases? The whole experiment, with its controls.\n\n"
    "Not for clinical use.",
)

INTERRUPTED = 130  # exit code: 128 and the number of SIGINT
_STEPS = (studies.demo, init, studies.study, prepare, steps.fit, steps.sample, steps.train)
_EVIDENCE = (fidelity, evidence.evaluate, evidence.compare, evidence.ensemble, evidence.unknown, worth)
for _verb in (*_STEPS, *_EVIDENCE, planning.power, studies.explain, studies.report):
    app.command()(_verb)
app.command(name="run-stage")(studies.run_stage)
app.add_typer(challenge, name="challenge")
app.add_typer(masks, name="masks")
app.add_typer(reader, name="reader")
app.command(name="list")(steps.list_plugins)


def main() -> None:
    """Run the command line; the entry point of the ``moulage`` script."""
    before = signal.signal(signal.SIGTERM, _stop)
    verb = openings.READER.set("".join(sys.argv[1:2]))
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # Typer makes it of a Ctrl-C, without a word
            fail("Interrupted. What is finished is kept: the same command goes on from there.", INTERRUPTED)
        raise
    except MoulageError as error:
        fail(str(error))
    except OSError as error:
        where = str(error.filename)[:200] if error.filename else "a file"
        if error.errno == errno.ENOSPC:
            fail(f"The disk is full ({where}).\n  Free some space; what is finished is kept.")
        if isinstance(error, PermissionError):
            fail(f"No permission for {where}.\n  Name another place with --out, or mend the permissions.")
        if error.filename is None:
            raise
        fail(f"{where}: {error.strerror}.\n  Name another place, or mend that one.")
    finally:
        openings.READER.reset(verb)
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: object) -> None:
    """The end that a cluster or a system asks for is a Ctrl-C: workers are ended, and what is finished is kept."""
    raise KeyboardInterrupt(number)
