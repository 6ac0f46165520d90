"""The result of `benchmarks/roi_align.py` as tables for people."""

from __future__ import annotations

from rich import box, console, table

from benchmarks import context

_COLUMNS = (
    "implementation",
    "error",
    "same bits",
    "forward",
    "x floor",
    "x touched",
    "backward",
    "x floor",
    "both",
    "x floor",
    "gather / this",
    "torchvision / this",
    "temp MB",
)


def show(result: dict) -> None:
    out = console.Console(highlight=False)
    out = console.Console(highlight=False, width=max(out.width, 150), soft_wrap=True)
    out.print(_header(result))
    for name in dict.fromkeys([*result["specs"], *(row["spec"] for row in result["rows"])]):
        spec = result["specs"].get(name, {"error": "the floors were not measured"})
        rows = [row for row in result["rows"] if row["spec"] == name]
        out.print()
        if "error" in spec:
            out.print(f"{name}: {spec['error']}", markup=False)
        else:
            out.print(_describe(name, spec), markup=False)
            out.print(_table(spec, [row for row in rows if "seconds" in row]))
        for row in rows:
            for word in ("error", "skipped", "note"):
                if word in row:
                    out.print(f"{row['implementation']}: {word}: {row[word]}", markup=False)
    if result["unfinished"]:
        out.print(f"\nNot everything was measured: {result['unfinished']}.", markup=False)


def _header(result: dict) -> str:
    return "\n".join(
        [
            context.headline(result),
            ", ".join(result["platform_version"].split("\n")),
            f"median of {result['repeats']} timings in ms",
        ]
    )


def _describe(name: str, spec: dict) -> str:
    floors = spec["floor_seconds"]
    count = spec["bytes"]
    (h, w), (height, width) = spec["output_size"], spec["image"]
    probabilities = f" with {spec['probabilities']}^2 maps" if spec["probabilities"] else ""
    return (
        f"{name}: {spec['batch']} x {spec['rois']} RoIs at {h}x{w}{probabilities}, {height}x{width}, "
        f"C {spec['channels']}, {spec['dtype']}\n"
        f"pyramid {count['pyramid'] / 1e6:.0f} MB ({count['touched'] / count['pyramid']:.0%} touched), "
        f"result {count['out'] / 1e6:.0f} MB; copy {spec['copy_bytes_per_second'] / 1e9:.4g} GB/s; floors in ms: "
        f"forward {_ms(floors['forward'])} (touched {_ms(floors['forward_touched'])}), "
        f"backward {_ms(floors['backward'])}"
    )


def _table(spec: dict, rows: list[dict]) -> table.Table:
    grid = table.Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(_COLUMNS):
        grid.add_column(column, justify="right" if index else "left")
    both = {row["implementation"]: row["seconds"]["forward_backward"] for row in rows}
    floors = spec["floor_seconds"]
    for row in rows:
        seconds = row["seconds"]
        grid.add_row(
            row["implementation"],
            f"{max(row['errors'].values()):.0e}",
            "yes" if row["same_bits_twice"] else "no",
            _ms(seconds["forward"]),
            _ratio(seconds["forward"], floors["forward"]),
            _ratio(seconds["forward"], floors["forward_touched"]),
            _ms(seconds["backward"]),
            _ratio(seconds["backward"], floors["backward"]),
            _ms(seconds["forward_backward"]),
            _ratio(seconds["forward_backward"], floors["forward_backward"]),
            *(
                _ratio(both.get(baseline), seconds["forward_backward"])
                for baseline in ("gather", "torchvision")
            ),
            _megabytes(row["temp_bytes"].get("forward_backward")),
        )
    return grid


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _ratio(a: float | None, b: float) -> str:
    return "-" if a is None else f"{a / b:.2f}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"
