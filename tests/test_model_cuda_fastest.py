"""The choice of the fastest product."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.decoder_weights import linear
from model.quantized_matrix import QuantizedMatrix
from tests.tools import needs_kernels

pytestmark = needs_kernels
CPU = torch.device("cpu")
SHAPES = [(64, 256), (64, 256), (40, 130)]


def matrices(*, rounded: bool) -> list[Tensor | QuantizedMatrix]:
    weights = [torch.randn(*shape, generator=torch.Generator().manual_seed(n)) for n, shape in enumerate(SHAPES)]
    return [QuantizedMatrix.of(weight, "int8") if rounded else weight for weight in weights]


class Clock:
    """Times a product by the kernel that it launches: those with these outputs in a program take a second, others two.

    share: of the others' time that the fastest take.
    too_large: outputs in a program of a kernel that the device cannot launch.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fastest: int | None, *, share: float = 0.5, too_large: int | None = None
    ) -> None:
        self.measured, self._share, self._too_large = 0, share, too_large
        self._used: list[int | None] = []
        self._fastest = fastest
        from model.cuda import fastest as module
        from model.cuda.product import multiply

        def watched(x: Tensor, matrix: Tensor | QuantizedMatrix, blocks: object) -> Tensor:
            self._used.append(blocks.outputs)  # type: ignore[attr-defined]
            return multiply(x, matrix, blocks)  # type: ignore[arg-type]

        def plain(x: Tensor, matrix: Tensor) -> Tensor:
            self._used.append(None)
            return linear(x, matrix)

        monkeypatch.setattr(module, "multiply", watched)
        monkeypatch.setattr(module, "linear", plain)

    def seconds(self, calls: Sequence[Callable[[], object]]) -> float:
        self.measured += 1
        self._used.clear()
        for call in calls:
            call()
        assert len(set(self._used)) == 1
        if self._too_large is not None and self._used[0] == self._too_large:
            from triton import OutOfResources

            raise OutOfResources(122_880, 101_376, "shared memory")
        return 2 * self._share if self._used[0] == self._fastest else 2.0

    def used(self, call: Callable[[], Tensor]) -> int | None:
        """Outputs of a program of the product that is done; None if it is PyTorch's."""
        self._used.clear()
        call()
        return self._used[0]


@pytest.mark.parametrize(("rounded", "fastest"), [(False, None), (False, 32), (True, 32), (True, 64)])
def test_the_fastest_is_taken_and_kept_on_disk(
    rounded: bool, fastest: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.cuda.fastest import Products

    clock, own = Clock(monkeypatch, fastest), matrices(rounded=rounded)
    products = Products(own, CPU, seconds=clock.seconds, folder=tmp_path)
    products.prepare(2)
    measured = clock.measured
    assert measured == (2 if rounded else 3) * 2  # ways, of two sizes
    again = Products(own, CPU, seconds=clock.seconds, folder=tmp_path)
    again.prepare(2)
    assert clock.measured == measured
    for one in (products, again):
        for matrix in own:
            x = torch.randn(2, matrix.shape[1])
            assert clock.used(lambda: one(x, matrix)) == fastest  # noqa: B023
            floats = matrix if isinstance(matrix, Tensor) else matrix.floats()
            torch.testing.assert_close(one(x, matrix), x @ floats.T, rtol=1e-4, atol=1e-4)
    again.prepare(17)
    assert clock.measured == measured  # of many rows nothing is compared


@pytest.mark.parametrize(("share", "taken"), [(0.98, None), (0.96, 32)])
def test_noise_does_not_choose(
    share: float, taken: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A way that is hardly faster than PyTorch's is not taken: an engine would not draw the same after it was started anew."""
    from model.cuda.fastest import Products

    clock, own = Clock(monkeypatch, 32, share=share), matrices(rounded=False)
    products = Products(own, CPU, seconds=clock.seconds, folder=tmp_path)
    products.prepare(2)
    assert clock.used(lambda: products(torch.randn(2, 256), own[0])) == taken


@pytest.mark.parametrize(("rounded", "taken"), [(False, None), (True, 32)])
def test_a_kernel_that_the_device_cannot_launch_is_not_taken(
    rounded: bool, taken: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.cuda.fastest import Products

    clock, own = Clock(monkeypatch, 64, too_large=64), matrices(rounded=rounded)
    products = Products(own, CPU, seconds=clock.seconds, folder=tmp_path)
    products.prepare(2)
    assert clock.used(lambda: products(torch.randn(2, 256), own[0])) == taken


@pytest.mark.parametrize("content", ["", "[[1, 2]]", '{"a": 1}', "[[[2, 64, 256], null]]"])
def test_a_file_that_is_not_understood_is_written_anew(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.cuda.fastest import Products

    clock, own = Clock(monkeypatch, 32), matrices(rounded=False)
    Products(own, CPU, seconds=clock.seconds, folder=tmp_path).prepare(1)
    (file,) = tmp_path.iterdir()
    good = file.read_text()
    file.write_text(content)
    Products(own, CPU, seconds=clock.seconds, folder=tmp_path).prepare(1)
    assert file.read_text() == good
    assert clock.measured == 12


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.cuda.fastest import Products

    (tmp_path / "file").touch()
    clock, own = Clock(monkeypatch, 32), matrices(rounded=False)
    products = Products(own, CPU, seconds=clock.seconds, folder=tmp_path / "file")
    products.prepare(4)
    assert clock.used(lambda: products(torch.randn(4, 256), own[0])) == 32
