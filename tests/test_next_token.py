"""The next token of a causal language model, against a loop over single prompts in float64."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer
from transformers import TrainingArguments as Arguments

import pi_lib as pi
from pi_lib.coalitions import membership
from pi_lib.players import Placement

WORDS = "a good bad fine film with slow but moving story and cast : it was".split()
PROMPTS = [
    "a slow but moving film with cast : it was",
    "fine story and good cast with slow film and bad story : it was",
]
ANSWERS = ["good", "bad", "fine"]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<mask>", "<pad>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", mask_token="<mask>", pad_token="<pad>"
    )


def language_model(seed=0):
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=32, n_positions=24, n_embd=32, n_layer=2, n_head=2)
    config.initializer_range = 0.5  # answers that differ by more than rounding
    return GPT2LMHeadModel(config).eval()


@torch.no_grad()
def by_hand(model, tokens: torch.Tensor, answers: list[int], true: int) -> float:
    """The log-odds of an answer after one prompt without padding: (1, T)."""
    p = model.double()(tokens).logits[0, -1, answers].softmax(0)
    return (p[true] / (1 - p[true])).log().item()


def looped(model, placement: Placement, answers, true) -> list[float]:
    """The same for every coalition: masked words, or what stays of the prompt."""
    values = []
    for present in membership(len(placement.names)):
        shown = torch.cat([present, torch.tensor([True, False])])[placement.owner]
        tokens = torch.where(shown, placement.inputs, placement.baseline)
        values.append(by_hand(model, tokens[tokens >= 0][None], answers, true))
    return values


@pytest.mark.parametrize("masking", ["token", "drop"])
@pytest.mark.parametrize("cover", [True, False])
def test_prompts_of_several_lengths(tokenizer, masking, cover):
    players = pi.WordPlayers(tokenizer, n=4, cover=cover, masking=masking)
    value = pi.next_token_log_odds(ANSWERS, tokenizer)
    if masking == "drop" and cover:  # every word is a player, and none would stay
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=_with_end(tokenizer), mask_token="<mask>", eos_token="it"
        )
        players = pi.WordPlayers(tokenizer, n=4, cover=cover, masking=masking)
    labels = [2, 0]
    found = pi.extract(language_model().double(), PROMPTS, labels, players, value=value)
    expected = [
        looped(language_model(), placement, value.tokens, true)
        for placement, true in zip(players.place(PROMPTS), labels, strict=True)
    ]
    torch.testing.assert_close(found.v, torch.tensor(expected, dtype=torch.float64))
    assert found.v.std(1).min() > 0.1 and "next_token_log_odds" in found.meta["value"]


def _with_end(tokenizer):
    """A tokenizer that puts a token of its own behind every prompt."""
    from tokenizers import processors

    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.post_processor = processors.TemplateProcessing(
        single="$A it", special_tokens=[("it", own.token_to_id("it"))]
    )
    return own


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_read(tokenizer, side):
    """Prompts of one form in one batch, some of them padded."""
    model, value = language_model(), pi.next_token_log_odds(ANSWERS, tokenizer)
    tokenizer.padding_side = side
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    mask = batch["attention_mask"]
    others = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    players = pi.LabelMapPlayers(
        torch.where(mask > 0, torch.arange(mask.shape[1]) % 3, -1),
        baseline=tokenizer.mask_token_id, per_sample=True, others=others,
    )  # fmt: skip
    found = pi.coalition_values(
        model.double(), batch["input_ids"], [1, 1], players, value=value, batch_size=16
    )
    for row, ids in zip(found, tokenizer(PROMPTS)["input_ids"], strict=True):
        whole = by_hand(model, torch.tensor([ids]), value.tokens, 1)
        assert row[-1].item() == pytest.approx(whole, abs=1e-9)


def test_the_last_positions_are_enough(tokenizer):
    players = pi.WordPlayers(tokenizer, n=4)
    value = pi.next_token_log_odds(ANSWERS, tokenizer)
    model = language_model()
    options = {"players": players, "value": value}
    whole = pi.coalition_values(model, PROMPTS, [0, 1], **options)
    last = pi.coalition_values(
        model, PROMPTS, [0, 1], output=lambda output: output.logits[:, -1:], **options
    )
    torch.testing.assert_close(last, whole)
    logits, mask = torch.zeros(1, 1, 32), torch.tensor([[1, 1, 0]])
    with pytest.raises(ValueError, match="no logits: the attention mask"):
        value(logits, torch.tensor([0]), attention_mask=mask)


def test_tracker_and_yardstick(tokenizer, tmp_path):
    players = pi.WordPlayers(tokenizer, n=4, masking="drop")
    value = pi.next_token_log_odds(ANSWERS[:2], tokenizer)
    prompts, labels = PROMPTS * 3, [0, 1] * 3
    rows = [{"input_ids": x, "labels": x} for x in tokenizer(PROMPTS[:1] * 4)["input_ids"]]
    arguments = Arguments(
        str(tmp_path), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no", learning_rate=1e-2,
    )  # fmt: skip
    runs = []
    for seed in range(4):
        tracker = pi.KnowledgeTracker((prompts, labels), players, value=value, steps=1)
        Trainer(language_model(seed), arguments, train_dataset=rows, callbacks=[tracker]).train()
        assert tracker.failures == {} and list(tracker.interactions) == [0, 1, 2]
        runs.append(tracker.interactions[2])
    arms = {"probe": tracker.interactions[0], "finetuned": runs[:2], "scratch": runs[2:]}
    assert {"reliability", "similarity"} <= set(pi.yardstick(arms)["quantity"])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("good", "expected a list of at least two"),
        (["good"], "expected a list of at least two"),
        (["good", "good film"], r"'good film' is not one token: .* \['good', 'film'\]"),
        (["good", "awful"], r"'awful' is not one token: .* \['<unk>'\]"),
        (["good", ""], "'' is not one token"),
        (["good", "good"], "'good' and 'good' are the same token"),
        (["good", "good "], "'good' and 'good ' are the same token"),
    ],
)
def test_answers_are_refused(tokenizer, answers, message):
    with pytest.raises(ValueError, match=message):
        pi.next_token_log_odds(answers, tokenizer)


def test_what_is_refused_before_the_model_runs(tokenizer, monkeypatch):
    model, value = language_model(), pi.next_token_log_odds(ANSWERS, tokenizer)
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("it ran"))
    long = [PROMPTS[0], " ".join([PROMPTS[1]] * 2)]
    with pytest.raises(ValueError, match="sample 1 has 28 tokens, and the model takes at most 24"):
        pi.extract(model, long, [0, 1], pi.WordPlayers(tokenizer, n=3), value=value)
    with (
        pytest.warns(UserWarning, match="were cut"),
        pytest.raises(ValueError, match="sample 1: its prompt is longer than .* and was cut"),
    ):
        players = pi.WordPlayers(tokenizer, n=3, max_length=20)
        pi.extract(model, long, [0, 1], players, value=value)
    with pytest.raises(ValueError, match=r"labels 0\.\.3 for 3 answers; expected 0\.\.2"):
        pi.extract(model, PROMPTS, [0, 3], pi.WordPlayers(tokenizer, n=3), value=value)


def test_a_model_that_classifies_is_refused(tokenizer):
    value = pi.next_token_log_odds(ANSWERS, tokenizer)
    with pytest.raises(ValueError, match=r"shape \(2, 3\); expected logits \(B, T, V\)"):
        value(torch.zeros(2, 3), torch.tensor([0, 1]))
