"""Values: from a model's output and what is true of a sample to the number that is explained.

The value of a masked input is the log-odds of the true class, ``log p / (1 - p)``
(arXiv 2410.08455, section 3), computed from logits and never through p, which saturates. Regions,
boxes, numbers and next tokens have values below; any function of outputs and labels can be a value.
One that asks for more has a keyword-only parameter with the name of an argument of the model, as
`attention_mask`, and is given that, where the model is.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pi_lib.players import Placement


def label_tensor(labels) -> Tensor:
    """Labels as a tensor; a TypeError that says what was expected where they are no numbers."""
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"labels of type {type(labels).__name__} are no numbers ({error}); expected the number "
            "of the true class for each sample, as a list, an array or a tensor"
        ) from error


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds of the true class, ``z_y - logsumexp(z_others)`` = ``log p_y / (1 - p_y)``.

    Parameters
    ----------
    logits : (..., C) float, or (B,)
        C = 1, and (B,), are read as the logit of label 1 against label 0.
    labels : (...) int, or (B,)
        True classes, 0..C-1.

    Returns
    -------
    (...) float
        In nats; float64 for logits of less than 32 bits, whose rounding is as large as what
        players do, else in the precision of `logits`.

    Raises
    ------
    ValueError
        If a label is not one of the classes, logits are integers, or the shapes do not match.

    Examples
    --------
    >>> log_odds(torch.tensor([[2., 0.]]), torch.tensor([0]))
    tensor([2.])
    """
    labels, logits = torch.as_tensor(labels), _at_least_float32(logits)
    if not logits.is_floating_point():
        raise ValueError(f"got {logits.dtype}; expected logits, no predicted classes: pass floats")
    if logits.ndim == labels.ndim == 1:
        logits = logits[:, None]
    if logits.ndim < 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"expected logits (..., C) and labels (...); got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels are integer class numbers; got {labels.dtype}")
    classes = logits.shape[-1]
    if labels.numel() and not 0 <= labels.min() <= labels.max() < max(classes, 2):
        raise ValueError(
            f"labels {labels.min().item()}..{labels.max().item()} for a model with "
            f"{classes} output(s); expected 0..{max(classes, 2) - 1}"
        )
    labels = labels.to(logits.device, non_blocking=True)  # checked where they lay: no wait
    if classes == 1:
        return torch.where(labels == 1, logits[..., 0], -logits[..., 0])
    index = labels.long()[..., None]
    others = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    return logits.gather(-1, index)[..., 0] - others


def region_log_odds(outputs: Tensor, labels: Tensor) -> Tensor:
    """Log-odds of the true class, averaged over a region: the value for semantic segmentation.

    Parameters
    ----------
    outputs : (B, C, ...) float
        Logits of every element, as of every pixel: (B, C, H, W).
    labels : (B, ...) int
        True class of every element of the region; -1 where it is not.

    Returns
    -------
    (B,) float
        In nats; errors as `log_odds`, and a ValueError for an empty region.

    Examples
    --------
    >>> logits = torch.tensor([[[2., 0., 5.], [0., 1., 0.]]])  # two classes, three pixels
    >>> region_log_odds(logits, torch.tensor([[0, 1, -1]]))
    tensor([1.5000])
    """
    labels = torch.as_tensor(labels, device=outputs.device)
    if outputs.ndim < 3 or labels.shape != (len(outputs), *outputs.shape[2:]):
        raise ValueError(
            f"expected outputs (B, C, ...) and labels (B, ...), one for each element; got "
            f"{tuple(outputs.shape)} and {tuple(labels.shape)}"
        )
    inside = labels >= 0
    count = inside.flatten(1).sum(1)
    if (empty := count == 0).any():
        sample = empty.nonzero()[0].item()
        raise ValueError(f"the region of sample {sample} is empty: all its labels are -1")
    odds = log_odds(outputs.movedim(1, -1), labels.clamp(min=0))
    return odds.where(inside, 0).flatten(1).sum(1) / count


def box_log_odds(outputs: Tensor, labels: Tensor) -> Tensor:
    """Log-odds of the score of the box that matches a true one: the value for detection.

    A box's score is its overlap with the true box, as intersection over union, times its
    probability of the true class; the box that matches best counts, as in D-RISE
    (arXiv 2006.03204, Eq. 2 to 4).

    Parameters
    ----------
    outputs : (B, Q, 4 + C) float
        Of Q boxes: left, top, right, bottom, in pixels of the input, then the logits of the
        classes, "no object" among them if there is such a class.
    labels : (B, 5) float
        True class, and the true box in the same order.

    Returns
    -------
    (B,) float
        In nats; where no box overlaps the true one, that of a score of 1e-6. Errors as `log_odds`,
        and a ValueError for an empty true box.

    Examples
    --------
    >>> boxes = torch.tensor([[[0., 0., 4., 2., 9., 0.], [0., 0., 2., 2., 0., 0.]]])
    >>> box_log_odds(boxes, torch.tensor([[1, 0, 0, 2, 2]])).abs() < 1e-4  # the second: p = 1/2
    tensor([True])
    """
    from torchvision.ops import box_iou

    outputs = _at_least_float32(outputs)
    labels = torch.as_tensor(labels, device=outputs.device).to(outputs.dtype)
    if outputs.ndim != 3 or outputs.shape[-1] < 5 or labels.shape != (len(outputs), 5):
        raise ValueError(
            f"expected outputs (B, Q, 4 + C) and labels (B, 5), a class and a box; got "
            f"{tuple(outputs.shape)} and {tuple(labels.shape)}"
        )
    classes, true = labels[:, 0].long(), labels[:, 1:]
    if len(labels) and not 0 <= classes.min() <= classes.max() < outputs.shape[-1] - 4:
        raise ValueError(
            f"classes {classes.min().item()}..{classes.max().item()} for a model with "
            f"{outputs.shape[-1] - 4}; expected 0..{outputs.shape[-1] - 5}"
        )
    if (flat := (true[:, :2] >= true[:, 2:]).any(1)).any():
        raise ValueError(
            f"the true box {true[flat][0].tolist()} is empty: expected left < right, top < bottom"
        )
    overlap = torch.stack(
        [box_iou(boxes, box[None])[:, 0] for boxes, box in zip(outputs[..., :4], true, strict=True)]
    )
    rows = torch.arange(len(outputs), device=outputs.device)
    named = outputs[rows, :, 4 + classes] - outputs[..., 4:].logsumexp(-1)  # log-probability
    score = (overlap.log() + named).amax(1).clamp(math.log(1e-6), -1e-6)
    return score - torch.log(-torch.expm1(score))


def negative_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Minus the squared error, the value for regression.

    Parameters
    ----------
    outputs : (B,), (B, 1) or (B, D) float
        What the model says.
    targets : (B,) or (B, D) float
        What is true; pass it as `labels`.

    Returns
    -------
    (B,) float
        In the squared unit of the targets, summed over D; a ValueError for other shapes.

    Examples
    --------
    >>> negative_error(torch.tensor([[1.5], [2.0]]), torch.tensor([1.0, 2.0]))
    tensor([-0.2500, -0.0000])
    """
    outputs, targets = _at_least_float32(outputs), torch.as_tensor(targets, device=outputs.device)
    if outputs.numel() != targets.numel() or len(outputs) != len(targets):
        raise ValueError(
            f"expected outputs and targets of the same shape; got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}"
        )
    return -(outputs - targets.reshape(outputs.shape)).square().reshape(len(outputs), -1).sum(1)


class next_token_log_odds:  # called like the other values, made like `operator.itemgetter`
    """Log-odds of the true answer against the others, as a prompt's next token: a value.

    For causal language models (`GPT2LMHeadModel` and its like). The logits are read at the last
    real token of the prompt, by the attention mask if the model is given one: prompts may be padded
    on either side. Where players drop that token, it is the last one that stays.

    Parameters
    ----------
    answers : sequence of str
        At least two, each one token of the tokenizer, as it follows the prompt: of GPT-2 with the
        space before it, ``" good"``. Label i says that ``answers[i]`` is the true one.
    tokenizer : tokenizer of `transformers`

    Returns
    -------
    callable
        From logits (B, T, V) of T positions, or of the last of them alone, and labels (B,) to
        values (B,) in nats; for two answers ``z_true - z_other``. Precision as `log_odds`.

    Raises
    ------
    ValueError
        For fewer than two answers; an answer that is no token, several, or the same as another's.
        When it is used, before the model runs: a prompt that players have cut, a label without an
        answer.

    Notes
    -----
    With many tokens, ``output=lambda output: output.logits[:, -1:]`` saves most of the memory, for
    prompts that are not padded on the right, such as those of `pi_lib.WordPlayers`. The words of
    a question at the prompt's end are players as well, unless ``WordPlayers(words=)`` or its
    `stop_words` leave them out.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"?": 0, "good": 1, "bad": 2}, "?"))
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    >>> value = next_token_log_odds(["good", "bad"], tokenizer)
    >>> logits = torch.tensor([[[0., 3., 1.], [0., 9., 9.]]])  # two positions, three tokens
    >>> value(logits, torch.tensor([0])), value(logits, [0], attention_mask=torch.tensor([[1, 0]]))
    (tensor([0.]), tensor([2.]))
    """

    def __init__(self, answers: Sequence[str], tokenizer):
        if isinstance(answers, str) or len(answers) < 2:
            raise ValueError(f"answers={answers!r}; expected a list of at least two")
        self.answers = list(answers)
        self.tokens = [_only_token(answer, tokenizer) for answer in answers]
        for position, token in enumerate(self.tokens):
            if (first := self.tokens.index(token)) < position:
                raise ValueError(
                    f"the answers {answers[first]!r} and {answers[position]!r} are the same token: "
                    "expected answers that the model can tell apart"
                )

    def __call__(
        self, outputs: Tensor, labels: Tensor, *, attention_mask: Tensor | None = None
    ) -> Tensor:
        if outputs.ndim != 3 or outputs.shape[-1] <= max(self.tokens):
            raise ValueError(
                f"got an output of shape {tuple(outputs.shape)}; expected logits (B, T, V) of a "
                f"causal language model that has the answers' tokens, {self.tokens}"
            )
        here = outputs[..., self.tokens]
        if attention_mask is None:
            return log_odds(here[:, -1], labels)
        batch, positions = attention_mask.shape
        real = attention_mask.to(here.device) != 0
        last = positions - 1 - real.flip(1).int().argmax(1)
        at = last - (positions - here.shape[1])  # of those that the output has
        if batch != len(here) or not real.any(1).all() or at.min() < 0:
            raise ValueError(
                "the last real token of a prompt has no logits: the attention mask is of shape "
                f"{(batch, positions)}, the output of {tuple(outputs.shape)}. Expected a real one "
                "in every row, and an output that reaches back to it"
            )
        return log_odds(here[torch.arange(batch, device=here.device), at], labels)

    def check(self, placements: Sequence[Placement], labels: Tensor) -> None:
        """A ValueError for a prompt without its end, or a label without an answer."""
        for sample, placement in enumerate(placements):
            if placement.is_cut:
                raise ValueError(
                    f"sample {sample}: its prompt is longer than the players' max_length and was "
                    "cut, so the model would not read its end: shorten the prompt, or raise "
                    "max_length as far as the model goes"
                )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.answers):
            raise ValueError(
                f"labels {labels.min().item()}..{labels.max().item()} for {len(self.answers)} "
                f"answers; expected 0..{len(self.answers) - 1}"
            )


def _only_token(answer: str, tokenizer) -> int:
    """The id of the token that an answer is."""
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
        raise ValueError(
            f"the answer {answer!r} is not one token: the tokenizer reads it as "
            f"{tokenizer.convert_ids_to_tokens(tokens)}. Choose a word of its vocabulary, with the "
            "space before it where that belongs to the token"
        )
    return tokens[0]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.double() if x.dtype in (torch.float16, torch.bfloat16) else x


def _in_region(labels: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate((labels >= 0).float()[None, None], shape)[0, 0] > 0


def _in_box(label: Tensor, shape: tuple[int, int]) -> Tensor:
    left, top, right, bottom = label[1:].tolist()
    rows, columns = (torch.arange(side) + 0.5 for side in shape)
    return ((rows > top) & (rows < bottom))[:, None] & (columns > left) & (columns < right)


# Pixels of a sample on which its value depends, from its label; other values depend on all.
_PIXELS_OF = {region_log_odds: _in_region, box_log_odds: _in_box}


def has_player(value: Callable, placement: Placement, label: Tensor) -> bool:
    """Whether a player owns a pixel of the region or box that the value asks about.

    True for other values, which ask about the whole input.
    """
    pixels_of = next((of for known, of in _PIXELS_OF.items() if known is value), None)
    if pixels_of is None:
        return True
    owned = (placement.owner < len(placement.names)).expand_as(placement.inputs)
    return bool((owned & pixels_of(label.cpu(), tuple(placement.inputs.shape[-2:]))).any())
