"""Where a trace says that time went, and which part of a model an operation comes from."""

import types

import jax
import jax.numpy as jnp
import pytest

from benchmarks import profiling, trace

CONV = "jit(step)/transpose(jvp(Model.losses))/head/conv1/conv_general_dilated"


def line(name, *events):
    return types.SimpleNamespace(
        name=name,
        events=[
            types.SimpleNamespace(
                name=f"event {op}",
                start_ns=start * 1e9,
                duration_ns=duration * 1e9,
                stats=[("hlo_op", op)] if op else [],
            )
            for op, start, duration in events
        ],
    )


def plane(name, *lines):
    return types.SimpleNamespace(name=name, lines=lines)


def test_what_an_operation_calls_is_no_part_of_its_own_time():
    spans = [(0, 10, "while"), (1, 4, "a"), (2, 3, "b"), (5, 6, "a"), (10, 12, "c")]
    found = {}
    for name, length in trace.own_times(reversed(spans)):
        found[name] = found.get(name, 0) + length
    assert found == {"while": 6, "a": 3, "b": 1, "c": 2}


def test_lines_of_a_host_that_is_the_device_count_together():
    host = plane(
        "/host:CPU",
        line("one", ("x", 0, 2), ("", 0, 9)),
        line("two", ("x", 0, 1), ("y", 1, 2)),
    )
    assert trace.operations([host]) == {"x": 3, "y": 2}


def test_what_the_host_does_for_a_device_does_not_count():
    host = plane("/host:CPU", line("python", ("x", 0, 50)))
    gpu = plane("/device:GPU:0", line("Stream #13", ("x", 0, 2)), line("Stream #14", ("y", 0, 1)))
    assert trace.operations([host, gpu]) == {"x": 2, "y": 1}


def test_operations_of_a_tpu_count_once():
    lines = line("XLA Modules", ("x", 0, 50)), line(trace.OPS, ("x", 0, 2)), line("Steps")
    assert trace.operations([plane("/device:TPU:0", *lines)]) == {"x": 2}


@pytest.mark.parametrize(
    "source, part",
    [
        (CONV, "head/conv1 conv_general_dilated, backward"),
        ("jit(step)/jvp(Model.losses)/rpn/jit(clip)/max", "rpn/clip max"),
        ("jit(<lambda>)/Model.detect/rpn/while/body/closed_call/dot_general", "rpn dot_general"),
        ("jit(step)/mul", "mul"),
        ("reduce_sum", "reduce_sum"),
    ],
)
def test_the_part_of_a_model(source, part):
    assert trace.part(source) == part


def test_fusions_are_named_by_what_they_hold():
    program = f"""HloModule jit_step

%fused.1 (p: f32[2]) -> f32[2] {{
  %p = f32[2]{{0}} parameter(0), metadata={{op_name="p"}}
  %conv.1 = f32[2,3]{{1,0}} convolution(%p, %p), metadata={{op_name="{CONV}"}}
  ROOT %add.1 = f32[2,3]{{1,0}} add(%conv.1, %p), metadata={{op_name="jit(step)/add"}}
}}

%fused.2 (p: f32[2]) -> f32[2] {{
  ROOT %conv.2 = f32[9,3]{{1,0}} convolution(%p, %p), window={{size=14x14}}
}}

ENTRY %main (p: f32[2]) -> f32[2] {{
  %fusion.1 = f32[2,3]{{1,0}} fusion(%p), kind=kLoop, calls=%fused.1
  %fusion.2 = f32[9,3]{{1,0}} fusion(%p), kind=kCustom, calls=%fused.2, backend_config={{"a":"b"}}
  %sort.1 = (f32[9]{{0}}, s32[9]{{0}}) sort(%p, %p)
  ROOT %fusion.3 = f32[2,3]{{1,0}} fusion(%p), calls=%fused.2, metadata={{op_name="jit(step)/mul"}}
}}
"""
    names = trace.parts(program)
    assert names["fusion.1"] == "head/conv1 conv_general_dilated, backward"
    assert names["fusion.2"] == "convolution f32[9,3]" and names["fusion.3"] == "mul"
    assert names["sort.1"].startswith("sort (f32[9]")


def test_a_compiled_program_has_its_parts():
    def step(x):
        with jax.named_scope("head"):
            return jax.lax.dot(x, x)

    program = jax.jit(step).lower(jnp.ones((64, 64))).compile()
    assert "dot_general" in trace.parts(program.as_text()).values()


def test_the_largest_operations_and_their_shares():
    seconds = {f"op{i}": i * profiling.CALLS * 1e-3 for i in range(1, 21)}
    lines = profiling.table(seconds, {"op20": "head"})
    assert len(lines) == 2 + profiling.TOP + 2
    assert lines[2] == f"| `op20` | head | 20.00 | {20 / 210:.1%} |"
    assert lines[-2] == f"| 10 others | | 55.00 | {55 / 210:.1%} |"
    assert lines[-1] == "| all | | 210.00 | |"


def test_utilisation():
    text = profiling.utilisation(3 * 10**12, 2.0, 4.0, "the data sheet")
    assert text == (
        "2000.0 ms, 3,000.0 GFLOPs of convolutions and matrix products: 1.5 TFLOP/s, "
        "37.5% of 4 (the data sheet)."
    )


def test_a_product_shows_what_a_device_can_do():
    assert 1e-4 < profiling.product_tflops(256, "float32") < 1e3
