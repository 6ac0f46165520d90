"""Imports run one way, so that each layer can be read, tested and used without those above it."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# The layers that each layer may import, besides itself.
GROUND = {
    "jaxseg.atomic",
    "jaxseg.structures",
    "jaxseg.precision",
    "jaxseg.paths",
    "jaxseg.visualization",
    "jaxseg.cli",
    "jaxseg.config_keys",
    "jaxseg.exits",
}
PARTS = {*GROUND, "pallas_kernels", "jaxseg.losses", "jaxseg.ops"}
BELOW_TRAINING = {*PARTS, "jaxseg.modeling", "jaxseg.methods", "jaxseg.data", "jaxseg.evaluation"}
EVERYTHING = {
    *BELOW_TRAINING,
    "jaxseg.training",
    "jaxseg.weights",
    "jaxseg.predictor",
    "jaxseg",
}
ALLOWED = {
    "pallas_kernels": set(),
    **{name: GROUND for name in GROUND},
    "jaxseg.losses": GROUND,
    "jaxseg.ops": {*GROUND, "pallas_kernels"},
    "jaxseg.modeling": PARTS,
    "jaxseg.methods": {*PARTS, "jaxseg.modeling"},
    "jaxseg.data": GROUND,
    "jaxseg.evaluation": {*GROUND, "jaxseg.data"},
    # Weights of other frameworks become a run; a run may start from them (an import within a function).
    "jaxseg.weights": {*BELOW_TRAINING, "jaxseg.training"},
    "jaxseg.training": {*BELOW_TRAINING, "jaxseg.weights"},
    "jaxseg.predictor": {*BELOW_TRAINING, "jaxseg.training"},
    "jaxseg.report": {*BELOW_TRAINING, "jaxseg.training"},
    "jaxseg.launch": GROUND,
    "jaxseg.reproduce": {
        *BELOW_TRAINING,
        "jaxseg.training",
        "jaxseg.weights",
        "jaxseg.report",
        "jaxseg.launch",  # how a program is tied to its parent
    },
    "jaxseg": EVERYTHING,  # its lazy attributes
    "configs": set(),
    **{name: {*EVERYTHING, "configs"} for name in ("train", "eval", "predict")},
}
# What a layer may import from outside, besides the standard library.
OUTSIDE = {
    "pallas_kernels": {"jax", "numpy"},
    "configs": {"ml_collections"},
    "jaxseg.launch": set(),  # it must not take devices from those whom it starts
    "jaxseg.exits": set(),
    "jaxseg.ops": {"jax", "numpy", "jaxtyping"},
    "jaxseg.losses": {"jax", "jaxtyping", "optax"},
}


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> str | None:
    """The layer that a module belongs to; None for modules of other projects."""
    parts = module.split(".")
    if parts[0] == "jaxseg":
        return ".".join(parts[:2])
    return parts[0] if parts[0] in ALLOWED else None


FILES = [
    *(ROOT / name for name in ("train.py", "eval.py", "predict.py")),
    *(
        p
        for top in ("jaxseg", "configs", "pallas_kernels")
        for p in sorted(ROOT.glob(f"{top}/**/*.py"))
    ),
]
MODULES = {module_name(path) for path in FILES}


def imported(source: str):
    """(line, module) of every import, wherever in the source it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield node.lineno, submodule if submodule in MODULES else node.module


def violations(module: str, source: str) -> list[str]:
    own, found = layer(module), []
    for line, name in imported(source):
        target, top = layer(name), name.split(".")[0]
        if target is None:
            allowed = OUTSIDE.get(own)
            if allowed is not None and top not in {*allowed, *sys.stdlib_module_names}:
                found.append(f"{module}:{line} imports {name}; {own} may use {sorted(allowed)}")
        elif target != own and target not in ALLOWED[own]:
            found.append(f"{module}:{line} imports {name}; {own} is not above {target}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    module = module_name(path)
    assert layer(module) in ALLOWED, f"{module} is new: give its layer a place in this test"
    assert not violations(module, path.read_text())


@pytest.mark.parametrize(
    "module, source",
    [
        ("jaxseg.ops.boxes", "import jaxseg.modeling.fpn"),
        ("jaxseg.ops.boxes", "def f():\n    from jaxseg import methods"),
        ("jaxseg.ops.boxes", "import flax"),
        ("jaxseg.losses.box", "from jaxseg.ops import boxes"),
        ("jaxseg.modeling.fpn", "from jaxseg.methods import mask_rcnn"),
        ("jaxseg.data.plan", "from jaxseg.training import loop"),
        ("jaxseg.evaluation.coco", "from jaxseg import predictor"),
        ("jaxseg.structures", "from jaxseg.ops.boxes import area"),
        ("pallas_kernels.roi_align.api", "import jaxseg"),
        ("pallas_kernels.roi_align.api", "import flax.linen"),
        ("configs.demo", "import jax"),
        ("jaxseg.training.loop", "from jaxseg.report import charts"),
        ("jaxseg.report.page", "from jaxseg.reproduce import results"),
        ("jaxseg.reproduce.plan", "from configs.tables import table"),
    ],
)
def test_the_check_finds_what_it_should(module, source):
    assert len(violations(module, source)) == 1


def test_importing_the_package_loads_no_library():
    heavy = "{'jax', 'flax', 'numpy', 'cv2', 'grain', 'optax', 'orbax', 'matplotlib'}"
    code = f"import sys, jaxseg; print(*{heavy} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not out.stdout.split()
