"""Makes a submission to a test server from results, or checks one that is there.

python -m jaxseg.evaluation.submission coco --results=RESULTS.json --images=image_info_test-dev2017.json \
    --out=DIR --name=NAME
python -m jaxseg.evaluation.submission coco --check=detections_test-dev2017_NAME_results.zip \
    --images=image_info_test-dev2017.json
python -m jaxseg.evaluation.submission cityscapes --results=RESULTS.json --images=IMAGES.json --out=DIR --name=NAME
python -m jaxseg.evaluation.submission cityscapes --check=FOLDER --images=IMAGES.json

RESULTS.json is in COCO's format, as eval.py and predict.py write it; --images is a JSON file with `images` and
`categories`, such as the images.json of predict.py. See docs/evaluation.md.
"""

from __future__ import annotations

import pathlib

from absl import flags

from jaxseg import cli
from jaxseg.evaluation.report import make_folder
from jaxseg.evaluation.submission import cityscapes, coco, listing
from jaxseg.evaluation.submission.results_file import ResultsFile
from jaxseg.evaluation.submission.servers import SERVERS, Submission

_RESULTS = flags.DEFINE_string("results", None, "Results in COCO's format.")
_IMAGES = flags.DEFINE_string(
    "images", None, "JSON file with the images and categories of the split.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Folder that the submission is written into.")
_NAME = flags.DEFINE_string("name", None, "The algorithm's name in file names.")
_SPLIT = flags.DEFINE_enum(
    "split", "test-dev", ["test-dev", "test-challenge"], "COCO's test set, for the files' names."
)
_BOXES = flags.DEFINE_bool(
    "boxes", False, "COCO: write bbox, too; the server then takes sizes of objects from boxes."
)
_CHECK = flags.DEFINE_string(
    "check", None, "A file (coco) or folder (cityscapes) to check; nothing is written."
)


def main(argv: list[str]) -> None:
    server = argv[1]
    if server not in SERVERS:
        raise ValueError(f"Unknown test server {server!r}: allowed are {' and '.join(SERVERS)}.")
    _check_flags()
    images = listing.read(pathlib.Path(_IMAGES.value).expanduser())
    if _CHECK.value:
        check = {"coco": coco.check, "cityscapes": cityscapes.check}[server]
        print(f"Keeps the rules: {check(pathlib.Path(_CHECK.value).expanduser(), images)}")
        return
    split = _SPLIT.value.replace("-", "_")
    out = pathlib.Path(_OUT.value).expanduser()
    submission = Submission(server, images, out, _NAME.value, split)
    submission.check()
    results = ResultsFile(_RESULTS.value)
    make_folder(out)
    print(f"Written: {submission.write(results, boxes=_BOXES.value)}")


def _check_flags() -> None:
    making = {"--results": _RESULTS.value, "--out": _OUT.value, "--name": _NAME.value}
    given = [flag for flag, value in making.items() if value is not None]
    if _CHECK.value is not None and given:
        raise ValueError(f"--check only reads: leave out {' and '.join(given)}.")
    if _CHECK.value is None and len(given) < len(making):
        missing = [flag for flag in making if flag not in given]
        raise ValueError(
            f"{', '.join(missing)} not given: {', '.join(making)} are needed to make a submission, or --check=FILE to "
            "check one."
        )


if __name__ == "__main__":
    cli.run(main, arguments=["SERVER"])
