"""Which part of a model's output counts."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from pi_lib.engine.outputs import in_float64, model_output

LOGITS, OTHER = torch.zeros(2, 3), torch.ones(2, 5)
Heads = namedtuple("Heads", "logits aux")


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, OTHER),
        [LOGITS],
        (None, LOGITS),
        (torch.tensor(0.5), LOGITS),  # a loss before it
        Heads(LOGITS, OTHER),
        {"features": OTHER, "logits": LOGITS},
        {"aux": OTHER, "out": LOGITS},
        {"y": LOGITS},
        SequenceClassifierOutput(loss=torch.tensor(0.5), logits=LOGITS, hidden_states=(OTHER,)),
        SimpleNamespace(logits=LOGITS, other=OTHER),
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_are_found(output):
    assert model_output(output) is LOGITS
    assert model_output(output, "all") is output
    assert model_output(output, lambda whole: (whole,)) == (output,)


@pytest.mark.parametrize(
    ("output", "pick"),
    [
        ({"logits": LOGITS, "z": OTHER}, "z"),
        ((LOGITS, OTHER), 1),
        ((LOGITS, OTHER), -1),
        (Heads(LOGITS, OTHER), "aux"),
        (SimpleNamespace(logits=LOGITS, z=OTHER), "z"),
        (BaseModelOutput(last_hidden_state=OTHER), "last_hidden_state"),
        (SequenceClassifierOutput(logits=LOGITS, hidden_states=OTHER), 1),
    ],
)
def test_another_part_is_picked(output, pick):
    assert model_output(output, pick) is OTHER


@pytest.mark.parametrize(
    ("output", "pick", "error", "words"),
    [
        (
            {"boxes": OTHER, "scores": OTHER},
            None,
            TypeError,
            "a dict of 'boxes', 'scores'.*output=",
        ),
        ([{"boxes": OTHER}], None, TypeError, "a list of dict"),
        ((), None, TypeError, "a tuple of nothing"),
        ("text", None, TypeError, "a str"),
        ({"logits": [1.0]}, None, TypeError, "a dict of 'logits'"),
        ({"a": [1.0]}, "a", TypeError, "output='a' of what the model returned is a list of float"),
        ({"a": LOGITS}, "b", ValueError, "output='b'.*a dict of 'a'"),
        ((LOGITS,), 1, ValueError, "output=1.*a tuple of Tensor"),
        (LOGITS, "b", ValueError, r"output='b'.*a tensor of shape \(2, 3\)"),
    ],
)
def test_what_holds_no_logits_is_named(output, pick, error, words):
    with pytest.raises(error, match=words):
        model_output(output, pick)


def test_floats_become_float64_wherever_they_are():
    half = LOGITS.half()
    assert in_float64(half).dtype == torch.float64
    whole = SequenceClassifierOutput(logits=half, hidden_states=(half, {"a": [half]}))
    wide = in_float64(whole)
    assert wide.logits.dtype == wide["hidden_states"][1]["a"][0].dtype == torch.float64
    assert whole.logits is half and whole.hidden_states[0] is half  # the model's own is as it was
    assert in_float64(Heads(half, LOGITS.long())).aux.dtype == torch.long


def test_arrays_of_numpy_are_tensors():
    """As scikit-learn gives them."""
    array = np.arange(6.0).reshape(2, 3)
    for output, pick in ((array, None), ({"logits": array}, None), ({"a": 1, "b": array}, "b")):
        assert torch.equal(model_output(output, pick), torch.tensor(array))
