"""Writes the report of a run as one HTML page, or of several runs beside each other.

python -m jaxseg.report runs/mine                        # writes runs/mine/report.html
python -m jaxseg.report runs/a runs/b --out=compare.html
python -m jaxseg.report runs/mine --split=test           # what eval.py --split=test has found

WORKDIR is what train.py --workdir was given, also while it trains; or the folder that eval.py wrote. The page needs
neither a network nor a script. See docs/report.md.
"""

from __future__ import annotations

import pathlib

from absl import flags
from rich.console import Console

from jaxseg import cli
from jaxseg.evaluation.report import make_folder, write_text
from jaxseg.report import build, folder

_OUT = flags.DEFINE_string(
    "out",
    None,
    "The file; default: report.html in the work directory, of several runs in the current folder.",
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "The split whose results are shown; default: what the run itself was evaluated on.",
)
_SCORE = flags.DEFINE_float(
    "score",
    None,
    "Detections from this score on are drawn and count as found; default: for each run the score with the best F1.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def main(argv: list[str]) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, stderr=True)
    paths = list(dict.fromkeys(pathlib.Path(word).expanduser() for word in argv[1:]))
    out = pathlib.Path(
        _OUT.value or (paths[0] / "report.html" if len(paths) == 1 else "report.html")
    )
    out = out.expanduser()
    if out.is_dir():
        example = out / "report.html"
        raise IsADirectoryError(
            f"--out={out} is a folder: give the name of a file, e.g. {example}."
        )
    found = {
        label: folder.read(path, _SPLIT.value)
        for label, path in zip(folder.labels(paths), paths, strict=True)
    }
    make_folder(out.absolute().parent)  # before long work
    text = build.build(found, score=_SCORE.value, say=console.print)
    write_text(out, text)
    print(f"Written to {out} ({len(text.encode()) / 2**20:.1f} MiB)")


if __name__ == "__main__":
    cli.run(main, arguments=["WORKDIR..."])
