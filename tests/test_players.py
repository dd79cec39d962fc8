"""Players against layouts worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pi_lib import LabelMapPlayers, PatchPlayers, WordPlayers
from pi_lib.study import backbones

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def owner_of(placement, row, column):
    return placement.owner[0, 0, row, column].item()


def test_patches_lie_on_the_grid_and_in_the_region():
    players = PatchPlayers(grid=4, n=4, region="central")
    for placement in players.place(IMAGES):
        assert placement.names == ["r1c1", "r1c2", "r2c1", "r2c2"]
        assert owner_of(placement, 4, 4) == 0 and owner_of(placement, 7, 11) == 1
        assert owner_of(placement, 11, 8) == 3 and owner_of(placement, 0, 0) == 4  # kept
        counts = torch.bincount(placement.owner.flatten())
        assert counts.tolist() == [16, 16, 16, 16, 256 - 64]
    masked = PatchPlayers(grid=4, n=4, background="mask").place(IMAGES)[0]
    assert owner_of(masked, 0, 0) == 5


def test_a_grid_that_does_not_divide_the_image_still_covers_it():
    (placement,) = PatchPlayers(grid=3, n=9, region="all").place(torch.rand(1, 3, 7, 8))
    assert placement.owner.shape == (1, 1, 7, 8)
    assert sorted(placement.owner.unique().tolist()) == list(range(9))


def test_the_draw_depends_on_seed_and_sample_alone():
    players = PatchPlayers(grid=8, n=5)
    together = [p.names for p in players.place(IMAGES)]
    alone = [players.place(image[None])[0].names for image in IMAGES]
    assert together == alone  # the content is the id
    assert len({tuple(names) for names in together}) == 3
    by_id = [p.names for p in players.place(IMAGES, [7, 7, 8])]
    assert by_id[0] == by_id[1] != by_id[2]
    assert by_id != [p.names for p in PatchPlayers(grid=8, n=5, seed=1).place(IMAGES, [7, 7, 8])]


@given(
    st.integers(3, 9),
    st.sampled_from(["central", "all"]),
    st.integers(0, 99),
    st.data(),
)
def test_any_patches_are_disjoint_connected_and_seeded(grid, region, seed, data):
    """Every player owns a rectangle of its own, of the sizes that the grid allows."""
    most = (grid - 2) ** 2 if region == "central" else grid**2
    n = data.draw(st.integers(1, most))
    height, width = (data.draw(st.integers(grid, 3 * grid + 2)) for _ in range(2))
    players = PatchPlayers(grid, n, region=region, seed=seed)
    image = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    (one,), (again,) = players.place(image, [seed]), players.place(image, [seed])
    assert torch.equal(one.owner, again.owner) and len(set(one.names)) == n
    for player in range(n):
        rows, columns = torch.nonzero(one.owner[0, 0] == player, as_tuple=True)
        high, wide = (int(x.max() - x.min()) + 1 for x in (rows, columns))
        assert len(rows) == high * wide  # a full rectangle
        assert height // grid <= high <= -(-height // grid)
        assert width // grid <= wide <= -(-width // grid)


def test_baselines():
    mean = torch.tensor([0.1, 0.2, 0.3])
    given = PatchPlayers(grid=4, n=2, mean=mean).place(IMAGES)[0].baseline
    assert torch.equal(given[0, :, 3, 3], mean)
    of_batch = PatchPlayers(grid=4, n=2).place(IMAGES)[1].baseline
    torch.testing.assert_close(of_batch[0, :, 0, 0], IMAGES.mean((0, 2, 3)))
    assert PatchPlayers(grid=4, n=2, baseline="zero").place(IMAGES)[0].baseline.abs().max() == 0
    blurred = PatchPlayers(grid=4, n=2, baseline="blur").place(IMAGES)[0].baseline
    assert 0 < blurred.std() < IMAGES[0].std() / 4
    own = torch.full((3, 16, 16), 0.7)
    assert torch.equal(PatchPlayers(4, 2, baseline=own).place(IMAGES)[2].baseline[0], own)


def test_label_maps_and_masks_agree():
    owner = torch.tensor([[0, 0, -1], [1, 1, 2]])
    masks = torch.stack([owner == i for i in range(3)])
    one = LabelMapPlayers(owner, baseline=0.5)
    other = LabelMapPlayers.from_masks(masks, baseline=0.5)
    for players in (one, other):
        (placement,) = players.place(torch.rand(1, 3, 2, 3))
        assert placement.owner.shape == (1, 1, 2, 3)
        assert placement.owner[0, 0].tolist() == [[0, 0, 3], [1, 1, 2]]


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.tokenizer("minilm")


def test_words_are_masked_whole(tokenizer):
    text = "The unbelievably drab film isn't good."
    (placement,) = WordPlayers(tokenizer, n=4).place([text])
    content = ["unbelievably", "drab", "film", "isn't", "good"]
    assert len(placement.names) == 4
    assert placement.names == [word for word in content if word in placement.names]
    tokens = tokenizer.convert_ids_to_tokens(placement.inputs[0].tolist())
    for player, name in enumerate(placement.names):
        pieces = [
            t for t, o in zip(tokens, placement.owner[0].tolist(), strict=True) if o == player
        ]
        assert "".join(p.removeprefix("##") for p in pieces) == name.lower()
    kept = [t for t, o in zip(tokens, placement.owner[0].tolist(), strict=True) if o == 4]
    assert kept[0] == "[CLS]" and kept[-1] == "[SEP]" and "the" in kept
    assert placement.baseline == tokenizer.mask_token_id


def test_special_tokens_stay_when_the_background_is_masked(tokenizer):
    (placement,) = WordPlayers(tokenizer, n=2, background="mask").place(["the drab film was drab"])
    owner = placement.owner[0].tolist()
    assert owner[0] == owner[-1] == 2 and 3 in owner


def test_stop_words_and_cut_words_are_no_players(tokenizer):
    players = WordPlayers(tokenizer, n=3)
    assert not players.fits("it was the best of them") and players.fits("great moving drab film")
    assert [w[0] for w in players.content_words("It is not a Good film")] == ["not", "Good", "film"]
    short = WordPlayers(tokenizer, n=3, max_length=4)
    assert not short.fits("great moving film")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchPlayers(grid=8, n=37), "n=37 players cannot be drawn from the 36 patches"),
        (
            lambda: PatchPlayers(region="middle"),
            "region='middle'; expected one of 'central', 'all'",
        ),
        (lambda: PatchPlayers(baseline="grey"), "baseline='grey'"),
        (lambda: PatchPlayers().place(torch.rand(1, 3, 6, 6)), "6x6 pixels are smaller"),
        (lambda: PatchPlayers().place(torch.zeros(1, 3, 9, 9, dtype=torch.uint8)), "float"),
        (lambda: PatchPlayers().place(torch.rand(3, 9, 9)), "image tensor"),
        (lambda: PatchPlayers(mean=torch.zeros(1)).place(IMAGES), "one value per channel"),
        (lambda: PatchPlayers().place(IMAGES, [1]), "1 ids for 3 samples"),
        (lambda: LabelMapPlayers(torch.tensor([0, 2])), r"players \[1\] own no element"),
        (lambda: LabelMapPlayers(torch.tensor([-1, -1])), "holds no player"),
        (lambda: LabelMapPlayers(torch.tensor([0.0])), "integer labels"),
        (
            lambda: LabelMapPlayers(torch.tensor([0, 1])).place(torch.rand(2, 3)),
            "outside the input",
        ),
        (lambda: LabelMapPlayers.from_masks(torch.ones(2, 3)), r"players \[0, 1\] overlap"),
        (
            lambda: LabelMapPlayers.from_masks(torch.tensor([[1, 0], [0, 0]])),
            r"players \[1\] own no",
        ),
    ],
)
def test_bad_players_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_sentences_are_refused(tokenizer):
    with pytest.raises(ValueError, match="sample 1 has 1 content words, fewer than the n=2"):
        WordPlayers(tokenizer, n=2).place(["good drab film", "the film"])
    with pytest.raises(ValueError, match="list of sentences"):
        WordPlayers(tokenizer, n=2).place("good drab film")
