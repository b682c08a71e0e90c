"""The codebook of the image tokenizer: clusters, running means, restarts, selection; and its transplant."""

import torch
from torch import nn

from train.tiny.codebook import SphericalCodebook, nearest_codes
from train.tiny.transplant import transplant


def test_spherical_codebook_finds_the_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = nn.functional.normalize(torch.randn(8, 4, generator=generator), dim=-1)
    latents = nn.functional.normalize(centres.repeat(50, 1) + 0.02 * torch.randn(400, 4, generator=generator), dim=-1)
    book = SphericalCodebook(16, 4, decay=0.9, restart_below=0.01, separation=0.01)
    book.initialise(latents, generator)
    nearest = book.codes[nearest_codes(latents, book.codes)]
    assert (nearest * latents).sum(-1).min() > 0.99
    torch.testing.assert_close(book.codes.norm(dim=-1), torch.ones(16))


def test_codes_follow_the_running_mean_of_their_latents() -> None:
    book = SphericalCodebook(2, 2, decay=0.75, restart_below=0.1, separation=0.01)
    book.codes.copy_(torch.eye(2))
    book.sums.copy_(torch.eye(2))
    latents = nn.functional.normalize(torch.tensor([[3.0, 1.0], [3.0, 2.0]]), dim=-1)
    chosen = nearest_codes(latents, book.codes)
    assert chosen.tolist() == [0, 0]
    book.update(latents, chosen)
    moved = 0.75 * torch.tensor([1.0, 0.0]) + 0.25 * latents.sum(0)
    torch.testing.assert_close(book.codes[0], moved / moved.norm())
    torch.testing.assert_close(book.codes[1], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(book.usage, torch.tensor([0.75 + 0.25 * 2, 0.75]))


def test_unused_and_duplicate_codes_move_to_the_worst_served_latents() -> None:
    """Four codes, one duplicate and one unused: one of these two moves to the latent far from all codes."""
    book = SphericalCodebook(4, 3, decay=0.5, restart_below=0.1, separation=0.01)
    east, almost, north, up = torch.eye(3)[0], torch.tensor([1.0, 0.02, 0.0]), torch.eye(3)[1], torch.eye(3)[2]
    book.codes.copy_(nn.functional.normalize(torch.stack([east, almost, north, -up]), dim=-1))
    book.usage.copy_(torch.tensor([5.0, 1.0, 1.0, 0.0]))
    latents = torch.stack([east, north, up, east, east, north, east, east])
    assert book.restart(latents) == 2  # the duplicate and the unused code; at most a quarter of the number of latents
    torch.testing.assert_close(book.codes[0], east)
    torch.testing.assert_close(book.codes[2], north)
    assert any(torch.equal(code, up) for code in book.codes[[1, 3]])
    book.usage.fill_(1.0)
    repeated = int(book.restart(latents))
    assert repeated <= 1
    torch.testing.assert_close(book.codes[nearest_codes(up, book.codes)], up)


def test_selection_keeps_the_most_used_code_of_each_cluster() -> None:
    """Three clusters of ten codes on the unit sphere: the most used code of each is kept, in order of use."""
    generator = torch.Generator().manual_seed(2)
    crowds = torch.eye(5)[:3].repeat(10, 1) + 0.05 * torch.randn(30, 5, generator=generator)
    book = SphericalCodebook(30, 5, decay=0.5, restart_below=0.1, separation=0.01)
    book.codes.copy_(nn.functional.normalize(crowds, dim=-1))
    book.usage.copy_(torch.randperm(30, generator=generator).float())
    busiest = sorted((max(range(crowd, 30, 3), key=lambda i: float(book.usage[i])) for crowd in range(3)),
                     key=lambda i: -float(book.usage[i]))  # fmt: skip
    order = book.usage.argsort(descending=True)
    for kept in (busiest, order):
        few = SphericalCodebook(len(kept), 5, decay=0.5, restart_below=0.1, separation=0.01)
        few.select_from(book)
        torch.testing.assert_close(few.codes, book.codes[kept])
        torch.testing.assert_close(few.usage, book.usage[kept])


def test_unused_codes_stay_on_the_unit_sphere() -> None:
    book = SphericalCodebook(2, 2, decay=0.5, restart_below=0.1, separation=0.01)
    book.codes.copy_(torch.eye(2))
    book.sums.copy_(torch.eye(2))
    for _ in range(60):
        book.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    torch.testing.assert_close(book.codes, torch.eye(2))


def test_a_transplant_detects_latents_that_see_beyond_their_cell() -> None:
    """No error for cell means, nor for a blur over 3 × 3 cells, as seams are not scored; one for the picture's mean."""
    generator = torch.Generator().manual_seed(4)
    pixels = torch.rand(3, 3, 64, 64, generator=generator)

    def cell_means(pictures: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(pictures, 8).permute(0, 2, 3, 1)

    def worldly(pictures: torch.Tensor) -> torch.Tensor:
        return cell_means(pictures) + pictures.mean((1, 2, 3))[:, None, None, None]

    def blurred(pictures: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(pictures, 24, stride=8, padding=8).permute(0, 2, 3, 1)

    for _ in range(20):
        mixed = transplant(pixels, 8, generator)
        assert 0 < mixed.kept.sum() < 64
        assert mixed.scored.sum() == 48
        assert float(mixed.error(cell_means(mixed.pixels), cell_means(pixels))) == 0
        assert float(mixed.error(blurred(mixed.pixels), blurred(pixels))) < 1e-12
        assert float(mixed.error(worldly(mixed.pixels), worldly(pixels))) > 0
