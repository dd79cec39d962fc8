"""Players against layouts worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pi_lib import LabelMapPlayers, PatchPlayers, Placement, coalition_values
from pi_lib.coalitions import membership

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


@given(st.integers(3, 9), st.sampled_from(["central", "all"]), st.integers(0, 99), st.data())
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


def test_the_draws_that_records_rest_on_stay():
    """Drawn by commit a695a64: what is recorded of a sample stays of these players."""
    g = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 16, 16, generator=g)
    central, whole = PatchPlayers(n=5, seed=2), PatchPlayers(grid=4, n=5, region="all")

    def drawn(players, images, ids=None):
        return [" ".join(placement.names) for placement in players.place(images, ids)]

    assert drawn(central, images) == ["r3c4 r4c1 r5c5 r5c6 r6c1", "r1c1 r1c6 r3c4 r5c6 r6c6"]
    assert drawn(central, images, [0, 17]) == [
        "r1c4 r2c3 r2c5 r3c3 r5c3",
        "r1c2 r4c1 r4c4 r6c4 r6c6",
    ]
    assert drawn(whole, images.double()) == ["r0c0 r0c1 r1c0 r1c2 r2c1", "r0c1 r0c3 r2c1 r3c2 r3c3"]
    assert drawn(whole, images, [0, 17]) == ["r1c0 r1c3 r2c0 r2c2 r3c3", "r0c0 r1c0 r1c3 r2c3 r3c1"]


@pytest.mark.parametrize("region", ["central", "all"])
def test_without_n_every_patch_of_the_region_is_a_player(region):
    players = PatchPlayers(grid=5, n=None, region=region)
    placement, other = players.place(torch.rand(2, 3, 31, 32))
    assert players.n == len(placement.names) == {"central": 9, "all": 25}[region]
    assert torch.equal(placement.owner, other.owner)  # no draw
    named = PatchPlayers(grid=5, n=players.n, region=region).place(torch.rand(1, 3, 31, 32))[0]
    assert torch.equal(placement.owner, named.owner) and placement.names == named.names
    owned = placement.owner < players.n
    assert owned.all() if region == "all" else 0 < owned.double().mean() < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("baseline", ["mean", "zero", "blur"])
def test_images_of_half_precision(dtype, baseline):
    """Players as of the same sample in float32, and the baseline as exact as the type allows."""
    half = IMAGES.to(dtype)
    players = PatchPlayers(grid=4, n=3, baseline=baseline)
    for ids in (None, [0, 1, 2]):
        for got, exact in zip(
            players.place(half, ids), players.place(half.float(), ids), strict=True
        ):
            assert got.inputs.dtype == got.baseline.dtype == dtype
            assert torch.equal(got.baseline, exact.baseline.to(dtype))
            assert ids is None or torch.equal(got.owner, exact.owner)
    first, again = players.place(half)[0], players.place(half.clone())[0]
    assert torch.equal(first.owner, again.owner)  # the content is the id

    def model(x):
        assert x.dtype == dtype
        return torch.stack([x.float().mean((1, 2, 3)), torch.zeros(len(x))], 1)

    assert coalition_values(model, half, [0, 0, 0], players).isfinite().all()


def test_a_blur_as_wide_as_the_image():
    blurred = PatchPlayers(grid=2, n=4, region="all", baseline="blur").place(IMAGES)[0].baseline
    assert blurred.std() < IMAGES[0].std() / 4


MAPS = torch.tensor([[[0, 0, 1], [1, 1, -1]], [[1, 0, 0], [-1, -1, 0]], [[1, 1, 1], [0, 1, 1]]])


def test_a_label_map_for_each_sample():
    images = torch.rand(3, 3, 2, 3, dtype=torch.float64)
    players = LabelMapPlayers(MAPS, 0.5, per_sample=True, background="mask", names=["a", "b"])
    placements = players.place(images)
    for placement, image, labels in zip(placements, images, MAPS, strict=True):
        (alone,) = LabelMapPlayers(labels, 0.5, background="mask").place(image[None])
        assert torch.equal(placement.owner, alone.owner) and placement.owner.shape == (1, 1, 2, 3)
        assert torch.equal(placement.inputs[0], image) and placement.names == ["a", "b"]
    masks = torch.stack([MAPS == 0, MAPS == 1], 1)
    from_masks = LabelMapPlayers.from_masks(masks, per_sample=True, background="mask")
    for one, other in zip(from_masks.place(images), placements, strict=True):
        assert torch.equal(one.owner, other.owner)
    sums = coalition_values(
        lambda x: torch.stack([x.sum((1, 2, 3)), torch.zeros(len(x))], 1),
        images,
        [0, 0, 0],
        LabelMapPlayers(MAPS, 0.0, per_sample=True, background="mask"),
    )
    by_player = torch.stack([(images.sum(1) * (MAPS == i)).sum((1, 2)) for i in (0, 1)], 1)
    torch.testing.assert_close(sums, by_player.double() @ membership(2).double().T)


def test_labels_that_could_be_one_map_or_several_are_refused():
    images = torch.rand(3, 3, 2, 3)
    with pytest.raises(ValueError, match="one map for all, or 3 maps.*per_sample=False or True"):
        LabelMapPlayers(MAPS).place(images)  # as many maps as channels
    with pytest.raises(ValueError, match="one map for all, or 2 maps"):
        LabelMapPlayers(torch.tensor([[0, 1, 1], [1, 0, 0]])).place(torch.rand(2, 2, 3))
    channels = LabelMapPlayers(MAPS, per_sample=False).place(images)
    expected = torch.where(MAPS < 0, 2, MAPS)[None]
    assert all(torch.equal(placement.owner, expected) for placement in channels)
    with pytest.raises(ValueError, match="does not lie on.*pass per_sample=True"):
        LabelMapPlayers(MAPS).place(torch.rand(3, 1, 2, 3))
    one_image = LabelMapPlayers(MAPS[:1]).place(torch.rand(1, 1, 2, 3))[0]  # both say the same
    assert one_image.owner.tolist() == [[[[0, 0, 1], [1, 1, 2]]]]


def test_further_inputs_travel_unmasked_with_their_sample():
    ages, places = torch.tensor([30.0, 40.0, 50.0]), torch.rand(3, 2, 5)
    seen = []

    def model(x, age, place):
        seen.append((age, place))
        assert len(age) == len(place) == len(x)
        return torch.stack([age + 0 * x.mean((1, 2, 3)), torch.zeros(len(x))], 1)

    for players in (
        PatchPlayers(grid=4, n=2, others={"age": ages, "place": places}),
        LabelMapPlayers(
            torch.arange(256).view(16, 16) // 128, others={"age": ages, "place": places}
        ),
    ):
        values = coalition_values(model, IMAGES, [0, 0, 0], players)
        torch.testing.assert_close(values, ages[:, None].double().expand(3, 4))
        (first, _, third) = players.place(IMAGES)
        assert first.others["age"].tolist() == [30.0]
        assert torch.equal(third.others["place"], places[2:])
        with pytest.raises(ValueError, match=r"others\['age'\] has 3 rows for 2 samples"):
            players.place(IMAGES[:2])
    assert {row.tolist() == places[0].tolist() for _, batch in seen[:1] for row in batch} == {True}


def test_names_stay_as_they_are():
    names = ["$x_1$", "<b>&amp;", "a_b", "*"]
    players = LabelMapPlayers(torch.arange(4), names=names)
    assert players.place(torch.rand(1, 4))[0].names == names


def test_a_placement_has_no_empty_player():
    tokens, owner = torch.zeros(1, 3), torch.tensor([[0, 2, 2]])
    with pytest.raises(ValueError, match="players .'film'. own no element"):
        Placement(tokens, owner, torch.tensor(0.0), ["great", "film"])
    with pytest.raises(ValueError, match=r"owners \[4\] are not of 2 players"):
        Placement(tokens, torch.tensor([[0, 1, 4]]), torch.tensor(0.0), ["great", "film"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchPlayers(grid=3, region="all"), "n=10 players.*or n=None for all of them"),
        (lambda: PatchPlayers(others={"age": [1, 2]}), r"others\['age'\] is list; expected a ten"),
        (lambda: LabelMapPlayers(torch.tensor([0, 1]), per_sample=True), "a map for each sample"),
        (
            lambda: LabelMapPlayers(torch.tensor([[0, 1], [0, 0]]), per_sample=True),
            r"players \[1\] own no element of the label map of sample 1",
        ),
        (
            lambda: LabelMapPlayers(MAPS, per_sample=True).place(torch.rand(2, 2, 3)),
            "3 label maps for 2 samples",
        ),
    ],
)
def test_bad_players_are_refused(make, message):
    """Further ones are in tests/test_bad_input.py."""
    with pytest.raises(ValueError, match=message):
        make()


def test_a_baseline_that_the_inputs_cannot_hold():
    counts = torch.randint(9, (2, 3))
    for baseline in (0.5, torch.nan, torch.tensor([0.0, 1.0, 2.5])):
        with pytest.raises(ValueError, match=r"baseline (0.5|nan|2.5) would be .*inputs.float\(\)"):
            LabelMapPlayers(torch.arange(3), baseline).place(counts)
    with pytest.raises(ValueError, match="baseline -1 would be 255 in inputs of torch.uint8"):
        LabelMapPlayers(torch.arange(3), -1).place(counts.byte())
    for baseline in (0.0, 7, torch.tensor([0.0, 1.0, 2.0])):
        placement = LabelMapPlayers(torch.arange(3), baseline).place(counts)[0]
        assert placement.baseline.dtype == torch.int64


def test_names_that_are_no_text():
    players = LabelMapPlayers(torch.arange(2), names=[2019, 2020])
    assert players.place(torch.rand(1, 2))[0].names == ["2019", "2020"]


def test_inputs_that_are_no_tensor():
    with pytest.raises(ValueError, match=r"expected a tensor of inputs .* got ndarray"):
        LabelMapPlayers(torch.arange(2)).place(torch.rand(1, 2).numpy())
