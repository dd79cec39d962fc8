"""Values of outputs, against their definitions written out in float64."""

import pytest
import torch

from pi_lib import box_log_odds, log_odds, negative_error, region_log_odds


def test_log_odds():
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    p = logits.softmax(-1).gather(-1, labels[:, None])[:, 0]
    torch.testing.assert_close(log_odds(logits, labels), (p / (1 - p)).log())
    assert log_odds(torch.tensor([[200.0, -300.0]]), torch.tensor([0])) == 500  # does not saturate
    one_logit = log_odds(torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0]))
    assert one_logit.tolist() == [2, -2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_rounded_once(dtype):
    """The logits are what they are; nothing is rounded again on the way to a value."""
    generator = torch.Generator().manual_seed(0)
    logits = (10 * torch.randn(50, 5, generator=generator)).to(dtype)
    labels = torch.randint(5, (50,), generator=generator)
    assert torch.equal(log_odds(logits, labels), log_odds(logits.double(), labels))
    maps, regions = logits.view(10, 5, 5), labels.view(10, 5)
    assert torch.equal(region_log_odds(maps, regions), region_log_odds(maps.double(), regions))
    targets = torch.randn(50, 5, generator=generator)
    assert torch.equal(negative_error(logits, targets), negative_error(logits.double(), targets))
    boxes = torch.cat([torch.tensor([0.0, 0, 4, 4]).expand(50, 4), logits.float()], 1)[:, None]
    true = torch.tensor([[3.0, 1, 1, 5, 5]]).expand(50, 5)
    low = boxes.to(dtype)
    assert torch.equal(box_log_odds(low, true), box_log_odds(low.double(), true))


def test_labels_are_checked_before_they_go_to_the_device():
    """A tensor on "meta" has no values: reading one there, as `.item()` does, raises."""
    logits = torch.empty(3, 4, device="meta")
    assert log_odds(logits, torch.tensor([0, 1, 3])).shape == (3,)
    with pytest.raises(ValueError, match=r"labels 0\.\.4 for a model with 4"):
        log_odds(logits, torch.tensor([0, 1, 4]))


def test_one_logit_without_an_axis_of_its_own():
    """As `squeeze(-1)` at the end of a network gives it."""
    assert log_odds(torch.tensor([2.0, 2.0]), torch.tensor([1, 0])).tolist() == [2, -2]
    with pytest.raises(ValueError, match=r"labels 0\.\.2 for a model with 1 output"):
        log_odds(torch.tensor([2.0, 2.0]), torch.tensor([2, 0]))
    for predicted in (torch.tensor([1, 0]), torch.tensor([[1, 0, 2], [0, 1, 5]])):
        with pytest.raises(ValueError, match="got torch.int64; expected logits"):
            log_odds(predicted, torch.tensor([1, 0]))
