"""Words as players: which they are, which tokens they own, and what the model receives."""

import unicodedata
import warnings
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    FNetConfig,
    FNetForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from pi_lib import WordPlayers, coalition_values, log_odds
from pi_lib.coalitions import membership
from pi_lib.players.words import STOP_WORDS, has_two_letters, words_of
from pi_lib.study import backbones

SENTENCES = [
    "a great film , a moving story and a wonderful cast",
    "this film is not good , it is drab",
] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.tokenizer("minilm")


@cache
def wordpiece():
    """As BERT's, of a few words: [UNK] for what it does not know."""
    t = Tokenizer(tokenizer_models.WordPiece(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(
        SENTENCES,
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False),
    )
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=t,
        unk_token="[UNK]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@cache
def bytes_pairs():
    """As GPT-2's: no unknown word, no mask token, no special token of its own accord."""
    t = Tokenizer(tokenizer_models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    t.train_from_iterator(SENTENCES, trainer)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=t,
        unk_token=end,
        bos_token=end,
        eos_token=end,
        model_input_names=["input_ids", "attention_mask"],
    )


@cache
def unigrams():
    """As FNet's or T5's: pieces with the space before them, and no attention mask."""
    t = Tokenizer(tokenizer_models.Unigram())
    t.normalizer, t.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<unk>", "</s>", "<mask>"],
        unk_token="<unk>",
        show_progress=False,
    )
    t.train_from_iterator(SENTENCES, trainer)
    t.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=t,
        unk_token="<unk>",
        eos_token="</s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "token_type_ids"],
    )


TOKENIZERS = {"wordpiece": wordpiece, "byte pairs": bytes_pairs, "unigrams": unigrams}


def tokens_of(tokenizer, placement, player):
    tokens = tokenizer.convert_ids_to_tokens(placement.inputs[0].tolist())
    return [t for t, o in zip(tokens, placement.owner[0].tolist(), strict=True) if o == player]


# ---- what a word is


@pytest.mark.parametrize(
    "text",
    [
        "विश्वविद्यालय",
        "cafe\N{COMBINING ACUTE ACCENT}",
        "O'Neill's",
        "O\N{RIGHT SINGLE QUOTATION MARK}Neill",
        "C'mon",
        "e-mail",
        "B-movie",
        "state-of-the-art",
        "rock'n'roll",
        "1,000",
        "한국어",
        unicodedata.normalize("NFD", "한국어"),
        "שָׁלוֹם",
        "مُحَمَّد",
        "می\N{ZERO WIDTH NON-JOINER}خواهم",
        "col·lecció",
        "co\N{SOFT HYPHEN}operate",
        "தமிழ்நாடு",
    ],
)
def test_words_are_whole(text):
    players = WordPlayers(wordpiece(), 1)
    for sentence in (text, f"({text}) -- «{text}», {text}: {text}."):
        words = players.content_words(sentence)
        assert {word[0] for word in words} == {text} and len(words) == sentence.count(text)
        assert all(sentence[word.start : word.end] == text for word in words)


def test_what_divides_words():
    def words(text):
        return [word.text for word in words_of(text)]

    assert words("good--bad film.The and:then a_b ") == "good bad film The and then a b".split()
    assert words("'tis the dogs' 3.5 10/12 (x)-y -z-") == "tis the dogs 3.5 10 12 x y z".split()
    assert words("great😍film 👨\u200d👩 🇫🇷 5️⃣ ...") == ["great", "film", "5️⃣"]
    assert words("") == words(" \t\n") == []


def test_a_letter_is_no_content_word_and_a_syllable_is():
    assert not any(map(has_two_letters, ["I", "é", "e\u0301", "5", "a-b"]))
    assert all(map(has_two_letters, ["it", "घी", "책", unicodedata.normalize("NFD", "책"), "10"]))
    players = WordPlayers(wordpiece(), 1)
    assert not players.content_words("I'd, I'll, I've; a, I'm. It’s you're") and "i'd" in STOP_WORDS


def test_the_draws_that_records_rest_on_stay(tokenizer):
    """Drawn by commit a695a64: what is recorded of a sentence stays of these players."""
    texts = [
        "It's a charming and often affecting journey, unflinchingly bleak but never dull.",
        "The gorgeously elaborate continuation of a trilogy isn't so well-made (in 2002) as its "
        "first part.",
    ]
    players = WordPlayers(tokenizer, n=5, seed=1)
    by_content = [(p.names, p.owner[0].tolist()) for p in players.place(texts)]
    by_id = [(p.names, p.owner[0].tolist()) for p in players.place(texts, [0, 17])]
    assert by_content == [
        (
            ["often", "affecting", "journey", "unflinchingly", "bleak"],
            [5, 5, 5, 5, 5, 5, 5, 0, 1, 2, 5, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 5],
        ),
        (
            ["elaborate", "continuation", "trilogy", "well-made", "first"],
            [5, 5, 5, 5, 0, 1, 5, 5, 2, 5, 5, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 4, 5, 5, 5],
        ),
    ]
    assert by_id == [
        (
            ["charming", "often", "affecting", "unflinchingly", "never"],
            [5, 5, 5, 5, 5, 0, 5, 1, 2, 5, 5, 3, 3, 3, 3, 3, 5, 5, 4, 5, 5, 5],
        ),
        (
            ["continuation", "trilogy", "isn't", "2002", "part"],
            [5, 5, 5, 5, 5, 0, 5, 5, 1, 2, 2, 2, 5, 5, 5, 5, 5, 5, 3, 5, 5, 5, 5, 4, 5, 5],
        ),
    ]


# ---- scripts without spaces

UNSPACED = ["这部电影很好看", "とても良い映画", "カタカナ", "หนังเรื่องนี้ดีมาก", "ខ្មែរ", "မြန်မာ", "བོད"]


@pytest.mark.parametrize("text", UNSPACED)
def test_scripts_without_spaces_need_a_segmenter(text):
    players = WordPlayers(wordpiece(), 1)
    for cover in (False, True):
        with pytest.raises(ValueError, match="sample 1 is in a script without spaces.*words="):
            WordPlayers(wordpiece(), 1, cover=cover).place(["great film", f"great {text}"])
    with pytest.raises(ValueError, match="words="):
        players.content_words(text)
    with pytest.warns(UserWarning, match="words="):
        assert not players.fits(text)


def test_a_segmenter_gives_the_words(tokenizer):
    text, words = "这部电影很好看。", ["这部", "电影", "很", "好看", "。"]
    spans = [(0, 2), (2, 4), (4, 5), (5, 7), (7, 8)]
    for segment in (lambda text: words, lambda text: iter(spans)):
        (placement,) = WordPlayers(tokenizer, n=3, words=segment, stop_words={"很"}).place([text])
        assert placement.names == ["这部", "电影", "好看"]  # the full stop is no word
        assert placement.owner.tolist() == [[3, 0, 0, 1, 1, 3, 2, 2, 3, 3]]
    covered = WordPlayers(tokenizer, n=2, words=lambda text: words, cover=True).place([text])[0]
    assert covered.names == ["这部电影", "很好看。"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["great", "movie"],
        ["film", "great"],
        [(0, 5), (3, 8)],
        [(6, 99)],
        [(5, 0)],
        [7],
        [(1, 2, 3)],
    ],
)
def test_words_that_are_not_of_the_text_are_refused(wrong):
    players = WordPlayers(wordpiece(), 1, words=lambda text: wrong)
    for call in (players.fits, lambda text: players.place([text])):
        with pytest.raises(ValueError, match="words= gave .* for 'great film'.*in order"):
            call("great film")


# ---- which tokens they own


@cache
def odd_texts():
    strings = ["great", "film", "good", " not ", "C'mon", "1,000", "विश्व", "e\u0301", " ", " "]
    strings += ["[SEP]", "[UNK]", "<|endoftext|>", "<mask>"]
    characters = "abé ्विश̸é한국😍'’-_.,:1ﬁßİא[]\n\u200d\u00ad\ufe0f\u05b8\u0301\0"
    pieces = st.sampled_from([*strings, *characters])
    return st.lists(pieces | st.characters(exclude_categories=()), max_size=20).map("".join)


@given(st.data())
def test_any_text_fits_or_is_refused_and_no_word_is_cut(data):
    """`fits` and `place` agree; the tokens of a word, found anew, all have one owner."""
    tokenizer = TOKENIZERS[data.draw(st.sampled_from(sorted(TOKENIZERS)))]()
    text = data.draw(odd_texts() | st.tuples(odd_texts(), odd_texts()))
    n, cover, drop = (data.draw(x) for x in (st.integers(1, 3), st.booleans(), st.booleans()))
    length, side = data.draw(st.integers(4, 40)), data.draw(st.sampled_from(["left", "right"]))
    masking = {"masking": "drop"} if drop else {"mask_token": 5}
    tokenizer.truncation_side = side
    try:
        background = data.draw(st.sampled_from(["keep", "mask"]))
        players = WordPlayers(
            tokenizer, n, cover=cover, background=background, max_length=length, **masking
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not players.fits(text):
                with pytest.raises(ValueError, match="sample 0"):
                    players.place([text])
                return
            (placement,) = players.place([text])
        parts = (text,) if isinstance(text, str) else text
        whole = tokenizer(*parts, return_offsets_mapping=True)
    finally:
        tokenizer.truncation_side = "right"
    ids, owner = placement.inputs[0].tolist(), placement.owner[0].tolist()
    assert len(set(placement.names)) == n == len(set(owner) & set(range(n)))
    assert len(ids) <= length and (not drop or len(ids) > sum(o < n for o in owner))
    if len(whole["input_ids"]) > length:
        return  # which tokens were cut is tested by themselves below
    assert ids == whole["input_ids"]
    where = list(zip(whole.sequence_ids(0), whole["offset_mapping"], owner, strict=True))
    if cover:
        written = [part is not None and parts[part][slice(*ab)] for part, ab, _ in where]
        kept = {w for w, o in zip(written, owner, strict=True) if o >= n}
        assert kept <= {False, *tokenizer.all_special_tokens}
        runs = [o for o in owner if o < n]
        assert runs == sorted(runs)
        return
    for part, each in enumerate(parts):
        for word in words_of(each):
            owners = {o for p, (a, b), o in where if p == part and a < word.end and b > word.start}
            assert len(owners) <= 1, (word, owners)


@pytest.mark.parametrize("tokenizer_name", sorted(TOKENIZERS))
def test_words_in_one_token_are_one_player(tokenizer_name):
    """[UNK] for great😍film is one player; where the tokens part the words, they are two."""
    players = WordPlayers(TOKENIZERS[tokenizer_name](), 1, mask_token=5)
    for text in ("great😍film", "a great😍film 😍the", "the😍film"):
        (placement,) = players.place([text])
        words = placement.names[0].replace("😍", " ").split()
        assert placement.names[0] in text and len(tokens_of(players.tokenizer, placement, 0)) > 0
        assert tokenizer_name != "wordpiece" or len(words) == 2
        assert tokenizer_name == "wordpiece" or len(words) == 1
    assert not WordPlayers(wordpiece(), 2).fits("great😍film")  # was a second, empty player
    with pytest.raises(ValueError, match="sample 0 has 1 content words, fewer than the n=2"):
        WordPlayers(wordpiece(), 2).place(["great😍film"])
    (placement,) = WordPlayers(wordpiece(), 3).place(["a great😍film, not good"])
    assert placement.names == ["great😍film", "not", "good"]
    assert tokens_of(wordpiece(), placement, 0) == ["[UNK]"]


def test_unknown_words_are_masked_with_the_background_and_written_special_tokens_are_not():
    (placement,) = WordPlayers(wordpiece(), 1, background="mask").place(["xyz [SEP] good"], [0])
    assert tokens_of(wordpiece(), placement, 1) == ["[CLS]", "[SEP]", "[SEP]"]


@pytest.mark.filterwarnings("ignore:.*texts are longer")
@pytest.mark.parametrize("name", ["minilm", "byte pairs", "unigrams"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_cuts_no_player(tokenizer, name, side, monkeypatch):
    """At every length: a player has all of its word's tokens, as many as in the whole text."""
    tokenizer = tokenizer if name == "minilm" else TOKENIZERS[name]()
    text = "unflinchingly cafe\u0301 drab marvellousness"
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    whole = WordPlayers(tokenizer, 4, mask_token=5).place([text])[0]
    sizes = {word: tokens_of(tokenizer, whole, i) for i, word in enumerate(whole.names)}
    assert list(sizes) == text.split()
    assert len(sizes["marvellousness"]) > 2 < len(sizes["unflinchingly"])
    fitting = []
    for length in range(3, whole.inputs.shape[1] + 1):
        players = WordPlayers(tokenizer, 1, mask_token=5, max_length=length)
        if players.fits(text):
            placements = players.place([text], [0]) + players.place([text] * 20, range(20))
            for placement in placements:
                assert placement.inputs.shape[1] <= length
                assert tokens_of(tokenizer, placement, 0) == sizes[placement.names[0]]
            fitting.append({placement.names[0] for placement in placements})
    first = "marvellousness" if side == "left" else "unflinchingly"
    assert fitting[0] == {first} and fitting[-1] == set(sizes)


def test_texts_that_are_cut_are_counted_and_the_model_s_length_holds(monkeypatch):
    tokenizer = wordpiece()
    texts = ["great film", "a great film , a moving story and a wonderful cast"]
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than max_length=6 tokens"):
        placements = WordPlayers(tokenizer, 1, max_length=6).place(texts)
    assert [len(p.inputs[0]) for p in placements] == [4, 6]
    monkeypatch.setattr(tokenizer, "model_max_length", 8)
    players = WordPlayers(tokenizer, 1)
    assert players.max_length == 8
    with pytest.warns(UserWarning, match="max_length=8"):
        assert players.place(texts)[1].inputs.shape == (1, 8)


def test_repeated_words_have_names_of_their_own():
    text = "good film , good cast , Good story , not good"
    words = [w[0] for w in WordPlayers(wordpiece(), 1).content_words(text)]
    (placement,) = WordPlayers(wordpiece(), len(words)).place([text])
    numbered = ["good", "film", "good (2)", "cast", "Good", "story", "not", "good (3)"]
    assert placement.names == numbered
    drawn = {WordPlayers(wordpiece(), 1).place([text], [i])[0].names[0] for i in range(60)}
    assert drawn == set(placement.names)  # a word's name does not hang on the draw


# ---- chunks that cover


@pytest.mark.parametrize("n", range(1, 10))
def test_chunks_cover_the_sentence(tokenizer, n):
    text = "It is (not) the best of $5 films: unbelievably <drab>, a_b and dull!"
    (placement,) = WordPlayers(tokenizer, n, cover=True).place([text])
    owner = placement.owner[0].tolist()
    assert owner[0] == owner[-1] == n  # the special ones alone
    assert owner[1:-1] == sorted(owner[1:-1]) and set(owner[1:-1]) == set(range(n))
    encoded, words = tokenizer(text), words_of(text)
    chunk_of = torch.tensor([owner[encoded.char_to_token(word.start)] for word in words])
    sizes = torch.bincount(chunk_of, minlength=n)
    assert len(words) == 14 and sizes.max() - sizes.min() <= 1
    at = 0
    for name in placement.names:  # the names are the text, in order, but for what is shortened
        at = text.index(name.removesuffix("…"), at)
        assert len(name) <= 24
    if n == 7:
        chunks = "It is|(not) the|best of|$5 films:|unbelievably <drab>,|a_b|and dull!"
        assert placement.names == chunks.split("|")
    again = WordPlayers(tokenizer, n, cover=True, seed=5).place([text], [9])[0]
    assert torch.equal(placement.owner, again.owner)  # no draw


@pytest.mark.filterwarnings("ignore:.*texts are longer")
def test_chunks_hold_what_truncation_left_of_a_word(tokenizer):
    text = "an unbelievably, wonderfully drab film"
    for length in range(5, 12):
        players = WordPlayers(tokenizer, 2, cover=True, max_length=length)
        if players.fits(text):
            owner = players.place([text])[0].owner[0]
            assert set(owner[1:-1].tolist()) == {0, 1}
    assert not WordPlayers(tokenizer, 6, cover=True).fits(text)
    with pytest.raises(ValueError, match="has 5 words, fewer than the n=6 chunks"):
        WordPlayers(tokenizer, 6, cover=True).place([text])
    with pytest.raises(ValueError, match="leave stop_words out"):
        WordPlayers(tokenizer, 2, cover=True, stop_words={"the"})


# ---- pairs, further inputs, masks


def small_bert(tokenizer):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return BertForSequenceClassification(config).eval()


def by_hand(model, placement, n, value=lambda logits: logits[0, 0] - logits[0, 1]):
    """v of every coalition, one masked sample at a time."""
    values = []
    for kept in membership(n):
        keep = torch.cat([kept, torch.tensor([True, False])])[placement.owner]
        masked = torch.where(keep, placement.inputs, placement.baseline)
        with torch.no_grad():
            values.append(value(model(masked, **placement.others).logits.double()))
    return torch.stack(values)


def test_pairs_of_sentences():
    tokenizer, pairs = wordpiece(), [("a great film", "moving, great story"), ("good cast", "drab")]
    players = WordPlayers(tokenizer, 3)
    placements = players.place(pairs)
    for placement, (first, second) in zip(placements, pairs, strict=True):
        whole = tokenizer(first, second)
        assert placement.inputs.tolist() == [whole["input_ids"]]
        assert placement.others["token_type_ids"].tolist() == [whole["token_type_ids"]]
        assert placement.others["attention_mask"].bool().all()
        special = tokenizer.get_special_tokens_mask(
            whole["input_ids"], already_has_special_tokens=True
        )
        assert (placement.owner[0, torch.tensor(special).bool()] == 3).all()
    assert players.place([list(pairs[0])])[0].names == placements[0].names  # the content is the id
    all_words = WordPlayers(tokenizer, 5).place(pairs[:1])[0]
    assert all_words.names == ["great", "film", "moving", "great (2)", "story"]
    assert all_words.owner.tolist() == [[5, 5, 0, 1, 5, 2, 5, 3, 4, 5]]
    model = small_bert(tokenizer)
    values = coalition_values(model, pairs, [0, 0], players, value=log_odds)
    expected = torch.stack([by_hand(model, placement, 3) for placement in placements])
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
    (single,) = WordPlayers(tokenizer, 2).place(["great film"])
    assert "token_type_ids" not in single.others  # all 0 is what a model takes by itself
    chunks = WordPlayers(tokenizer, 2, cover=True).place([("a great film", "it is drab")])[0]
    assert chunks.names == ["a great film", "it is drab"]
    with pytest.raises(ValueError, match="list of sentences, or of pairs"):
        players.place([("one", "two", "three")])


def test_the_order_of_a_pair_is_part_of_its_content():
    players = WordPlayers(wordpiece(), 1)
    pairs = [("great film", "story"), ("great", "film story"), ("story", "great film")]
    more = [(f"{a} {i}", b) for i in range(10) for a, b in pairs]
    names = [p.names[0] for p in players.place(more)]
    assert len({tuple(names[k::3]) for k in range(3)}) == 3


def test_further_inputs_travel_with_their_sentence():
    players = WordPlayers(wordpiece(), 1, others={"age": torch.tensor([3.0, 4.0])})

    def model(tokens, attention_mask, age):
        return torch.stack([age, torch.zeros(len(tokens))], 1)

    values = coalition_values(model, ["great film", "drab story"], [0, 0], players)
    assert values.tolist() == [[3.0, 3.0], [4.0, 4.0]]
    with pytest.raises(ValueError, match="2 rows for 1 samples"):
        players.place(["great film"])
    with pytest.raises(ValueError, match=r"makes \['attention_mask'\] itself"):
        WordPlayers(wordpiece(), 1, others={"attention_mask": torch.ones(1, 4)}).place(
            ["drab cast"]
        )


def test_a_tokenizer_without_attention_mask():
    """FNet's: token types alone."""
    tokenizer = unigrams()
    torch.manual_seed(0)
    model = FNetForSequenceClassification(
        FNetConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            intermediate_size=32,
            type_vocab_size=2,
            initializer_range=0.5,
        )
    ).eval()
    players = WordPlayers(tokenizer, 2)
    (single, pair) = players.place(["great film"]) + players.place([("great", "drab film")])
    assert not single.others and set(pair.others) == {"token_type_ids"}
    for text, placement in (("great film", single), (("great", "drab film"), pair)):
        values = coalition_values(model, [text], [0], players)
        expected = by_hand(model, placement, 2)
        torch.testing.assert_close(values[0], expected, rtol=1e-4, atol=1e-4)


def test_a_tokenizer_without_mask_token():
    tokenizer = bytes_pairs()
    with pytest.raises(ValueError, match="no mask token.*mask_token=.*masking='drop'"):
        WordPlayers(tokenizer)
    end = tokenizer.eos_token_id
    assert WordPlayers(tokenizer, mask_token="<|endoftext|>").mask_token_id == end
    assert WordPlayers(tokenizer, mask_token=7).place(["great film"] * 0) == []
    (placement,) = WordPlayers(tokenizer, 1, mask_token=" ").place(["great"])
    assert tokenizer.convert_ids_to_tokens(placement.baseline.item()) == "Ġ"  # a space, in bytes
    assert WordPlayers(wordpiece(), mask_token="[UNK]").mask_token_id == 1
    for wrong, message in (
        ("great film", "is not one token.*film"),
        ("", "is not one token"),
        (-1, f"expected 0..{len(tokenizer) - 1}"),
        (len(tokenizer), "is no token's id"),
    ):
        with pytest.raises(ValueError, match=message):
            WordPlayers(tokenizer, mask_token=wrong)
    with pytest.raises(ValueError, match="'xyz' is not one token.*UNK"):
        WordPlayers(wordpiece(), mask_token="xyz")


def gpt2(kind):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=400,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.5,
        pad_token_id=5,
    )
    return kind(config).eval()


@pytest.mark.parametrize("kind", [GPT2LMHeadModel, GPT2ForSequenceClassification])
@pytest.mark.parametrize("cover", [False, True])
def test_dropped_words_leave_the_sentence(kind, cover):
    """v is that of the shorter sentence itself, whatever the model makes of positions."""
    tokenizer, model = bytes_pairs(), gpt2(kind)
    text = "<|endoftext|>a great film, unbelievably not drab"
    players = WordPlayers(tokenizer, 4, cover=cover, masking="drop")
    (placement,) = players.place([text])

    def last(output, labels):  # of a language model, what comes next
        output = output[:, -1] if output.ndim == 3 else output
        return output[:, 0] - output[:, 1]

    values = coalition_values(model, [text], [0], players, value=last, batch_size=5)
    expected, lengths = [], set()
    for kept in membership(4):
        keep = torch.cat([kept, torch.tensor([True, False])])[placement.owner]
        tokens = placement.inputs[keep][None]
        lengths.add(tokens.shape[1])
        with torch.no_grad():
            expected.append(last(model(tokens).logits.double(), None)[0])
    assert len(lengths) > 4 and tokens.tolist() == placement.inputs.tolist()
    torch.testing.assert_close(values[0], torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_what_goes_with_the_tokens_is_dropped_with_them():
    pair, further = ("great film", "not drab"), torch.arange(7.0)[None]
    players = WordPlayers(wordpiece(), 4, masking="drop", others={"further": further})
    seen = {}

    def model(tokens, attention_mask, token_type_ids, further):
        assert attention_mask.all() and attention_mask.shape == token_type_ids.shape == tokens.shape
        for row, types in zip(tokens.tolist(), token_type_ids.tolist(), strict=True):
            seen[tuple(row)] = types
        assert further.shape == (len(tokens), 7)  # as long as the tokens, and not of them
        return torch.zeros(len(tokens), 2)

    coalition_values(model, [pair], [0], players)
    assert len(seen) == 16 and all(
        types == [0] * (row.index(3) + 1) + [1] * (len(row) - row.index(3) - 1)
        for row, types in seen.items()
    )


def test_a_sentence_of_which_nothing_would_stay_is_refused():
    tokenizer, text = bytes_pairs(), "great film"
    for options in ({"background": "mask"}, {"cover": True}, {}):
        players = WordPlayers(tokenizer, 2, masking="drop", **options)
        assert not players.fits(text)
        with pytest.raises(ValueError, match="no token left when all its players are dropped"):
            players.place([text])
        assert players.fits("<|endoftext|>" + text)
    assert WordPlayers(tokenizer, 1, masking="drop").fits(text)
    with pytest.raises(ValueError, match="leave mask_token out"):
        WordPlayers(tokenizer, masking="drop", mask_token=5)


def test_stop_words_and_cut_words_are_no_players(tokenizer):
    players = WordPlayers(tokenizer, n=3)
    assert not players.fits("it was the best of them") and players.fits("great moving drab film")
    assert [w[0] for w in players.content_words("It is not a Good film")] == ["not", "Good", "film"]
    short = WordPlayers(tokenizer, n=3, max_length=4)
    assert not short.fits("great moving film")


def test_bad_sentences_are_refused(tokenizer):
    with pytest.raises(ValueError, match="sample 1 has 1 content words, fewer than the n=2"):
        WordPlayers(tokenizer, n=2).place(["good drab film", "the film"])
    with pytest.raises(ValueError, match="list of sentences"):
        WordPlayers(tokenizer, n=2).place("good drab film")
    with pytest.raises(ValueError, match="max_length=2 leaves no room beside the 2 special"):
        WordPlayers(tokenizer, n=1, max_length=2)
    players = WordPlayers(tokenizer, n=1)
    assert not players.fits("drab \ud800 film")
    with pytest.raises(ValueError, match="sample 0 is no valid Unicode"):
        players.place(["drab \ud800 film"])
    for wrong in (None, 5, ("drab",), ("drab", 5)):
        with pytest.raises(ValueError, match="expected a list of sentences, or of pairs"):
            players.fits(wrong)


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
