"""What a report says."""

import io

from rich.console import Console

from jaxseg.evaluation import report
from jaxseg.evaluation.coco import Metrics


def test_what_was_changed_is_told():
    changed = {"model.test.score_alpha": (1.0, 2.0), "data.root": ("", "/there/[x]")}
    found = report.Report(split="val", images=1, seconds=1.0, changed=changed)
    console = Console(file=io.StringIO(), width=40)
    found.print(console)
    for text in (console.file.getvalue(), found.markdown()):
        assert "Changed from the run: model.test.score_alpha 1.0 -> 2.0\n" in text
        assert "Changed from the run: data.root '' -> '/there/[x]'\n" in text


def test_names_are_printed_as_they_are():
    names = ("cat [wild]", "[/x]", ":smile:", "back\\")
    numbers = {"AP": 0.5, "AP50": 0.75}
    metrics = Metrics("bbox", summary=numbers, per_class=dict.fromkeys(names, numbers))
    found = report.Report(
        split="[b]val",
        images=1,
        seconds=1.0,
        skipped={"[/y]": 2},
        metrics={"box": metrics, "mask": metrics},
    )
    console = Console(file=io.StringIO(), width=120)
    found.print(console)
    text = console.file.getvalue()
    assert all(part in text for part in (*names, "[b]val: 0 det", "metrics on [b]val", "2 [/y]"))
