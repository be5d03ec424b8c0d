"""Kernels are launched with what they are given, and built without being launched."""

import threading

import pytest

from aion_lite.model import launch


class Kernel:
    """What a kernel of Triton's offers: kernel[grid](...) and kernel.warmup(..., grid=...)."""

    def __init__(self):
        self.launched, self.built = [], []

    def __getitem__(self, grid):
        return lambda *args, **settings: self.launched.append((grid, args, settings))

    def warmup(self, *args, grid, **settings):
        self.built.append((args, settings))


@pytest.fixture
def kernels(monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr(launch.torch.cuda, "device", lambda _: nullcontext())
    return Kernel(), Kernel()


def run(kernels):
    for i, kernel in enumerate(kernels):
        launch.launch(kernel, (i, 2), "x", i, BLOCK=16)


def test_a_kernel_is_launched_on_its_grid(kernels):
    run(kernels)
    assert [k.launched for k in kernels] == [[((i, 2), ("x", i), {"BLOCK": 16})] for i in range(2)]


def test_building_launches_nothing_and_builds_all(kernels):
    launch.build(lambda: run(kernels), "cuda")
    assert [k.launched for k in kernels] == [[], []]
    assert [k.built for k in kernels] == [[(("x", i), {"BLOCK": 16})] for i in range(2)]


def test_what_a_thread_cannot_build_is_told_and_later_launches_are_launches(kernels, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(kernels[1], "warmup", fails)
    with pytest.raises(RuntimeError, match="no C compiler"):
        launch.build(lambda: run(kernels), "cuda")
    with pytest.raises(ZeroDivisionError):
        launch.build(lambda: 1 / 0, "cuda")
    run(kernels)
    assert all(k.launched for k in kernels)


def test_another_thread_launches_while_this_one_notes(kernels):
    other = threading.Thread(target=run, args=(kernels,))

    def both():
        other.start()
        other.join()
        run(kernels)

    assert len(launch.noted(both)) == 2
    assert [len(k.launched) for k in kernels] == [1, 1]
