"""The contests of step and inference benchmarks: each method beside the baseline and the peer, one after another."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import contest, context, detector, models, scene, torchvision_peer, worker
from benchmarks.contest import Contestant
from benchmarks.journal import Journal

Make = Callable[[ConfigDict, scene.Scene], Contestant]
MakePeer = Callable[[torchvision_peer.Peer, ConfigDict], Contestant]


def main(
    argv: list[str],
    name: str,
    make: Make,
    make_peer: MakePeer,
    profile: Callable[[str, ConfigDict, scene.Scene], str],
    **facts: Any,
) -> None:
    """The program `benchmarks/NAME.py`: profiles, does the work as its own worker, or has it done and shows it.

    `facts` are written beside the numbers.
    """
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    if flags.FLAGS.profile:
        print(context.headline(worker.described()), end="\n\n")
        for method in flags.FLAGS.methods:
            config = config_of(method)
            print(profile(method, config, made_scene(config)), flush=True)
        return
    if flags.FLAGS.journal:
        work(Journal(flags.FLAGS.journal), make, make_peer)
        return
    result = to_result(name, worker.supervised(name)) | facts
    print(table(result))
    if flags.FLAGS.json:
        context.write(flags.FLAGS.json, result)


def work(journal: Journal, make: Make, make_peer: MakePeer) -> None:
    """Measures what the journal lacks: a row {contestant: its row} for each method."""
    if "context" not in journal.rows:
        journal.end("context", worker.described() | models.flag_values())
    for method in flags.FLAGS.methods:
        if method in journal.rows:
            continue
        journal.begin(method)
        try:
            journal.end(method, _rows(method, make, make_peer))
        except Exception as error:
            journal.end(method, {"error": contest.line(error)})
        gc.collect()
    journal.finish()


def config_of(method: str) -> ConfigDict:
    """The config that is measured: of the method and the flags."""
    values = flags.FLAGS
    return detector.prepared(
        models.METHODS[method](values.backbone),
        size=models.image_size(),
        batch=values.batch_size,
        dtype=values.dtype,
        **models.changes(),
    )


def made_scene(config: ConfigDict) -> scene.Scene:
    return scene.make(
        config.train.batch_size, models.image_size(), config.model.num_classes, flags.FLAGS.seed
    )


def _rows(method: str, make: Make, make_peer: MakePeer) -> dict[str, Any]:
    """Of `take_turns`, in the order: the method, the baseline, the peer."""
    values, contestants = flags.FLAGS, {}
    for name in dict.fromkeys((method, models.BASELINE)):
        config = config_of(name)
        contestants[name] = make(config, made_scene(config))
    baseline = config_of(models.BASELINE)
    peers, absent = made(
        _peers(), lambda n: make_peer(_peer(baseline, n == models.COMPILED_PEER), baseline)
    )
    contestants |= peers
    rows = contest.take_turns(contestants, repeats=values.repeats, least=values.least_seconds)
    return rows | absent


def made(
    names: Iterable[str], make: Callable[[str], Contestant]
) -> tuple[dict[str, Contestant], dict[str, dict[str, str]]]:
    """(those that can be made, the rows of those that cannot)."""
    contestants, absent = {}, {}
    for name in names:
        try:
            contestants[name] = make(name)
        except torchvision_peer.Unavailable as reason:
            absent[name] = {"skipped": str(reason)}
        except Exception as error:  # of torch's compiler, or out of memory: the others are measured
            absent[name] = {"error": contest.line(error)}
    return contestants, absent


def _peers() -> list[str]:
    """torch.compile takes minutes on a CPU, where it is asked for; a GPU has both."""
    values = flags.FLAGS
    compiled = values.compiled_peer
    if compiled is None:
        compiled = jax.devices()[0].platform == "gpu"
    both = {models.PEER: values.peer, models.COMPILED_PEER: values.peer and compiled}
    return [name for name, wanted in both.items() if wanted]


def _peer(config: ConfigDict, compiled: bool) -> torchvision_peer.Peer:
    backbone = models.PEER_BACKBONES.get(flags.FLAGS.backbone)
    if backbone is None:
        raise torchvision_peer.Unavailable(f"it has no Mask R-CNN with {flags.FLAGS.backbone}")
    return torchvision_peer.Peer(
        made_scene(config),
        platform=jax.devices()[0].platform,
        dtype=flags.FLAGS.dtype,
        backbone=backbone,
        classes=config.model.num_classes,
        seed=flags.FLAGS.seed,
        compiled=compiled,
    )


def to_result(benchmark: str, journal: Journal) -> dict[str, Any]:
    """As it is shown and written."""
    rows = dict(journal.rows)
    head = {"benchmark": benchmark, **rows.pop("context"), "load_after": context.load()}
    return head | {"unfinished": journal.unfinished, "contests": rows}


def table(result: dict[str, Any]) -> str:
    """A line for each contestant of each contest, in Markdown."""
    lines = [
        f"{context.headline(result)}; {result['backbone']}, batch of {result['batch_size']} of "
        f"{' x '.join(result['size'])}, {result['dtype']}",
        "",
        "| contest | program | ms | fastest to slowest | images/s | times the first one's | compile, s | MiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in result["contests"].items():
        if "error" in rows:
            lines.append(f"| {name} | | {rows['error']} | | | | | |")
            continue
        lines += [_line_of(name, who, row, result["batch_size"]) for who, row in rows.items()]
    if result["unfinished"]:
        lines += ["", f"Not everything was measured: {result['unfinished']}."]
    return "\n".join(lines)


def _line_of(name: str, who: str, row: dict[str, Any], images: int) -> str:
    if "seconds" not in row:
        return f"| {name} | {who} | {row.get('error') or row.get('skipped')} | | | | | |"
    compiled = f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else ""
    size = row.get("planned_bytes", row.get("peak_bytes"))
    memory = f"{size / 2**20:,.0f}" if size else ""
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    return (
        f"| {name} | {who} | {row['seconds'] * 1e3:,.1f} | {row['fastest'] * 1e3:,.1f} to {row['slowest'] * 1e3:,.1f} "
        f"| {images / row['seconds']:.2f} | {ratio} | {compiled} | {memory} |"
    )
