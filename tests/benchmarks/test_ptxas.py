"""What the assembler says about kernels."""

import os

from benchmarks import ptxas

_REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'one' for 'sm_90a'
ptxas info    : Function properties for one
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 48 registers, used 2 barriers, 1 bytes smem
ptxas info    : Compile time = 28.101 ms
ptxas info    : Compiling entry function 'two' for 'sm_90a'
ptxas info    : Function properties for two
    128 bytes stack frame, 108 bytes spill stores, 116 bytes spill loads
ptxas info    : Used 255 registers
"""


def test_registers_and_spills_are_those_of_their_kernel():
    kernels = ptxas.parse(_REPORT)
    assert kernels["one"] == {
        "registers": 48,
        "stack_bytes": 0,
        "spill_store_bytes": 0,
        "spill_load_bytes": 0,
    }
    assert kernels["two"] == {
        "registers": 255,
        "stack_bytes": 128,
        "spill_store_bytes": 108,
        "spill_load_bytes": 116,
    }


def test_output_of_native_code_is_captured():
    with ptxas.captured_output() as text:
        os.write(1, b"to the output\n")
        os.write(2, b"to the error\n")
    assert text == ["to the output\nto the error\n"]
