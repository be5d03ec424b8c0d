"""The GPU kernels against torch on any machine, in Triton's interpreter.

It must be chosen before Triton is first imported, so the tests of the kernels run in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_the_kernels_in_tritons_interpreter():
    pytest.importorskip("triton", reason="needs Triton")
    files = [HERE / "test_attention_kernel.py", HERE / "test_gate_kernel.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "plain_path", *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip("this Triton's interpreter does not know this numpy")
    assert done.returncode == 0, done.stdout[-3000:]
