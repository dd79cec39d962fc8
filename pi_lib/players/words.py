"""Words as players: what a word is, which tokens are its own, and what masks it.

A word ends where Unicode Standard Annex 29 ends it (the `regex` module's boundaries): combining
marks, vowel signs and points stay with their letter. Three rules are our own: words joined by one
hyphen or apostrophe are one word ("e-mail"); an underscore divides; so do a full stop and a colon
between letters ("film.The"), where writers forgot a space more often than they meant a name. Which
tokens belong to a word is read from the tokenizer's own offsets.
"""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, pairwise
from typing import Literal, NamedTuple

import numpy as np
import regex
import torch
from torch import Tensor

from pi_lib.players.placement import Placement, by_sample, checked_others, draw, one_of, sample_ids

# English function words. Negations ("no", "not", "never") are left out: they carry sentiment.
STOP_WORDS = frozenset(
    """a about above after again against all also am an and any are as at be because been before
    being below between both but by can could did do does doing down during each either for from
    further had has have having he her here hers herself him himself his how i if in into is it its
    itself just let me might more most must my myself of off on once one only or other our ours
    ourselves out over own per same shall she should so some such than that the their theirs them
    themselves then there these they this those through to too under until up upon us very was we
    were what when where which while who whom whose why will with would you your yours yourself
    yourselves it's i'm i've i'd i'll you're he's she's we're they're that's there's what's who's
    let's s t d ll m re ve""".split()
)

_BOUNDARY = regex.compile(
    r"\b|(?=_)|(?<=_)|(?<!\p{N})(?=[.:])|(?<=[.:])(?!\p{N})", regex.WORD | regex.VERSION1
)
_LETTER = regex.compile(r"[\p{Alphabetic}\p{N}]")
_TWO_LETTERS = regex.compile(r"(?:[\p{Alphabetic}\p{N}]\p{M}*){2}")  # a vowel sign is a letter
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{LB=SA}\p{Tibetan}\p{Javanese}\p{Balinese}]"
)
_JOINERS = "-\N{HYPHEN}\N{NON-BREAKING HYPHEN}'\N{RIGHT SINGLE QUOTATION MARK}"


class Word(NamedTuple):
    """A word of a text, and where it stands: ``text[start:end]``."""

    text: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words of a text whose script writes spaces between them, in order.

    A ValueError for a script without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese,
    Tibetan): where its words end takes a dictionary.

    Examples
    --------
    >>> [word.text for word in words_of("C'mon, 1,000 e-mails of O'Neill's!")]
    ["C'mon", '1,000', 'e-mails', 'of', "O'Neill's"]
    """
    if _UNSPACED.search(text):
        raise _NeedsSegmenter(
            "is in a script without spaces between words and needs a segmenter: pass words=, a "
            "function from a text to its words in order, or to their (start, end)",
            text,
        )
    bounds = sorted({0, len(text), *(match.start() for match in _BOUNDARY.finditer(text))})
    spans: list[tuple[int, int]] = []
    for start, end in pairwise(bounds):
        if not _LETTER.search(text, start, end):
            continue
        if spans and start - spans[-1][1] == 1 and text[start - 1] in _JOINERS:
            start = spans.pop()[0]
        spans.append((start, end))
    return [Word(text[start:end], start, end) for start, end in spans]


def words_given_by(segmenter: Callable[[str], Iterable], text: str) -> list[Word]:
    """The words that a segmenter gives, strings or pairs (start, end), without bare punctuation.

    Raises ValueError if a word is neither, is not in the text, or overlaps the word before it.

    Examples
    --------
    >>> words_given_by(lambda text: [(0, 2), (2, 4), (4, 5)], "电影很好。")
    [Word(text='电影', start=0, end=2), Word(text='很好', start=2, end=4)]
    """
    words, end = [], 0
    for given in segmenter(text):
        try:
            start = text.find(given, end) if isinstance(given, str) else None
            span = (start, start + len(given)) if start is not None else tuple(map(int, given))
        except (TypeError, ValueError):
            span = ()
        if len(span) != 2 or not end <= span[0] <= span[1] <= len(text):
            raise ValueError(
                f"words= gave {given!r} for {text[:80]!r}; expected its words in order, as "
                "strings that stand in it or as (start, end), none overlapping the one before"
            )
        if _LETTER.search(text, *span):
            words.append(Word(text[slice(*span)], *span))
        end = span[1]
    return words


def has_two_letters(word: str) -> bool:
    """Whether a word has two letters, vowel signs or digits in a row: "I" and "a" have not."""
    return _TWO_LETTERS.search(unicodedata.normalize("NFD", word)) is not None


def shortened(text: str, length: int = 24) -> str:
    """A text on one line, of at most `length` characters as a reader counts them.

    Examples
    --------
    >>> shortened("a great film, a moving story", 12)
    'a great fil…'
    """
    text = " ".join(text.split())
    characters = regex.findall(r"\X", text)
    return text if len(characters) <= length else "".join(characters[: length - 1]).rstrip() + "…"


def distinct(names: Sequence[str]) -> list[str]:
    """The names, repeated ones numbered.

    Examples
    --------
    >>> distinct(["good", "film", "good"])
    ['good', 'film', 'good (2)']
    """
    result = []
    for name in names:
        numbered = (name if k == 1 else f"{name} ({k})" for k in count(1))
        result.append(next(candidate for candidate in numbered if candidate not in result))
    return result


class WordPlayers:
    """Words of a sentence, or of a pair of sentences, as players; a word's tokens go together.

    Words that share a token (one the tokenizer does not know, ``great😍film``) are one player: no
    token has two players, and no player is without a token. A longer text than `max_length` is cut
    as the tokenizer cuts it, with a warning; words that lose a token by it cannot be players.

    Parameters
    ----------
    tokenizer : fast tokenizer of `transformers`
        Gives offsets. Whatever else it makes (attention mask, token types of pairs) goes to the
        model unmasked.
    n : int
        Players per sample.
    cover : bool
        False: players are n content words, drawn at random, in reading order. True: all words, in
        n contiguous chunks of equal size (to within one word) that own every token but the special
        ones; nothing is drawn, and stop words count.
    stop_words : collection of str
        Lower-case words that are never players; default `STOP_WORDS`, English.
    words : callable, optional
        From a text to its words in order, as strings or as pairs (start, end): a segmenter, which
        Chinese, Japanese, Thai and other scripts without spaces need. Default the words between
        Unicode's word boundaries that have two letters or digits in a row.
    masking : "token" or "drop"
        Whether a masked word's tokens become the mask token, or leave the sentence, whose other
        tokens close up: for networks that never saw a mask token, such as causal language models.
    mask_token : str or int, optional
        The token, or its id, that stands for a masked one; default the tokenizer's mask token.
    background : "keep" or "mask"
        What becomes of tokens without a player (special tokens stay).
    max_length : int
        Longest input in tokens, the special ones included; no more than the tokenizer's
        ``model_max_length``.
    seed, others
        As in `pi_lib.PatchPlayers`.

    Raises
    ------
    ValueError
        If the tokenizer gives no offsets, or has no mask token and `mask_token` is not given; if
        `mask_token` is not one token; if `max_length` leaves no room beside the special tokens.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "[MASK]": 1, "drab": 2}, "[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(
    ...     tokenizer_object=words, unk_token="[UNK]", mask_token="[MASK]"
    ... )
    >>> placement, = WordPlayers(tokenizer, n=2).place(["It was a drab, drab film"], [0])
    >>> placement.names, placement.owner.tolist()
    (['drab (2)', 'film'], [[2, 2, 2, 2, 2, 0, 1]])
    """

    def __init__(
        self,
        tokenizer,
        n: int = 10,
        *,
        cover: bool = False,
        stop_words: Iterable[str] | None = None,
        words: Callable[[str], Iterable] | None = None,
        masking: Literal["token", "drop"] = "token",
        mask_token: str | int | None = None,
        background: Literal["keep", "mask"] = "keep",
        max_length: int = 128,
        seed: int = 0,
        others: Mapping[str, Tensor] | None = None,
    ):
        one_of("background", background, ("keep", "mask"))
        one_of("masking", masking, ("token", "drop"))
        if n < 1:
            raise ValueError(f"n={n} players; expected at least 1")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("WordPlayers needs a fast tokenizer: only those tell where a token is")
        if cover and stop_words is not None:
            raise ValueError("cover=True makes every word part of a player: leave stop_words out")
        if masking == "drop" and mask_token is not None:
            raise ValueError("masking='drop' puts no token in a word's place: leave mask_token out")
        self.tokenizer, self.n, self.cover, self.words = tokenizer, n, cover, words
        self.stop_words = STOP_WORDS if stop_words is None else frozenset(stop_words)
        self.masking, self.background, self.seed = masking, background, seed
        self.mask_token_id = -1 if masking == "drop" else _mask_token_id(tokenizer, mask_token)
        self.max_length = min(max_length, tokenizer.model_max_length)
        if self.max_length <= tokenizer.num_special_tokens_to_add():
            raise ValueError(
                f"max_length={self.max_length} leaves no room beside the "
                f"{tokenizer.num_special_tokens_to_add()} special tokens of every sentence"
            )
        self.others = checked_others(others)

    def content_words(self, text: str) -> list[Word]:
        """Words of a sentence that may be players, with where they stand; with `cover` all words.

        A ValueError for a script without spaces where there is no segmenter.
        """
        return [word for word in self._all_words(text) if self._is_content(word)]

    def fits(self, text: str | Sequence[str]) -> bool:
        """Whether `place` takes a sentence or pair: at least n words that can be players.

        False, with a warning, for a script without spaces where there is no segmenter (`words=`).
        """
        try:
            self._encode(text)
        except _NeedsSegmenter as reason:
            warnings.warn(f"a text does not fit: it {reason.what}", stacklevel=2)
            return False
        except _DoesNotFit:
            return False
        return True

    def place(
        self, inputs: Sequence[str | Sequence[str]], ids: Sequence[int] | None = None
    ) -> list[Placement]:
        """Placements of sentences, or of pairs (first, second).

        Raises ValueError if a sample has fewer than n content words, or with `cover` fewer than n
        words (choose samples with `fits`).
        """
        if isinstance(inputs, str):
            raise ValueError("expected a list of sentences; got str, a single one")
        encoded = []
        for position, text in enumerate(inputs):
            try:
                encoded.append(self._encode(text))
            except _DoesNotFit as reason:
                raise ValueError(f"sample {position} {reason}") from None
        others = by_sample(self.others, len(inputs))
        samples = zip(encoded, sample_ids(inputs, ids), others, strict=True)
        placements = [self._placement(*sample) for sample in samples]
        if cut := sum(x.is_cut for x in encoded):
            warnings.warn(
                f"{cut} of {len(inputs)} texts are longer than max_length={self.max_length} tokens "
                "and were cut: what is beyond is neither a player nor seen by the model",
                stacklevel=2,
            )
        return placements

    def _encode(self, text) -> "_Encoded":
        """A sample's tokens and those that may be players; `_DoesNotFit` if they are under n."""
        parts = _parts(text)
        words = [(part, word) for part, x in enumerate(parts) for word in self._all_words(x)]
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=len(parts) == 2)
        if room < len(parts):
            raise _DoesNotFit(f"does not fit into max_length={self.max_length} tokens", text)
        encoding = uncut = self.tokenizer(*parts, return_offsets_mapping=True, verbose=False)
        if is_cut := len(uncut["input_ids"]) > self.max_length:
            encoding = self.tokenizer(
                *parts, return_offsets_mapping=True, truncation=True, max_length=self.max_length
            )
        tokens = self._text_tokens(encoding, parts)
        groups = _groups(parts, words, self._text_tokens(uncut, parts), tokens)
        if self.cover:
            players = self._chunks(groups, tokens, parts)
        else:
            players = [
                (parts[group.part][group.words[0].start : group.words[-1].end], group.positions)
                for group in groups
                if any(map(self._is_content, group.words))
            ]
        if len(players) < self.n:
            what, aim = ("words", "chunks") if self.cover else ("content words", "players")
            there = len(groups if self.cover else players)
            raise _DoesNotFit(
                f"has {there} {what}, fewer than the n={self.n} {aim} asked for", text
            )
        if self.masking == "drop" and not self._something_stays(encoding, tokens, players):
            raise _DoesNotFit("has no token left when all its players are dropped", text)
        names, positions = zip(*players, strict=True)
        return _Encoded(encoding, tokens, [*zip(distinct(names), positions, strict=True)], is_cut)

    def _chunks(
        self, words: list["_Group"], tokens: list["_Token"], parts
    ) -> list[tuple[str, list[int]]]:
        """All tokens of the text in n runs, each beginning with a word: names and positions."""
        if len(words) < self.n:
            return []
        runs = np.array_split(range(len(words)), self.n)
        firsts = [words[run[0]].positions[0] for run in runs]
        in_words = {position for group in words for position in group.positions}
        bounds = [0, *(_opening(tokens, parts, in_words, first) for first in firsts[1:])]
        bounds.append(tokens[-1].position + 1)
        chunks = []
        for low, high in pairwise(bounds):
            inside = [token for token in tokens if low <= token.position < high]
            texts = (
                parts[part][min(x.start for x in run) : max(x.end for x in run)]
                for part in range(len(parts))
                if (run := [x for x in inside if x.part == part])
            )
            chunks.append((shortened(" | ".join(texts)), [token.position for token in inside]))
        return chunks

    def _something_stays(self, encoding, tokens, players) -> bool:
        """Whether a token stays whichever players are drawn and dropped."""
        if len(encoding["input_ids"]) > len(tokens):
            return True  # a special one
        undrawn = len(players) > self.n or len(tokens) > sum(len(x) for _, x in players)
        return self.background == "keep" and undrawn

    def _placement(self, encoded: "_Encoded", sample: int, others: dict) -> Placement:
        chosen = encoded.players
        if not self.cover:
            chosen = [chosen[k] for k in draw(len(chosen), self.n, self.seed, sample)]
        tokens = torch.tensor([encoded.encoding["input_ids"]])
        owner = torch.full_like(tokens, self.n)
        if self.background == "mask":
            owner[0, [token.position for token in encoded.tokens]] = self.n + 1
        for player, (_, positions) in enumerate(chosen):
            owner[0, positions] = player
        beside = _beside_tokens(encoded.encoding)
        if twice := sorted(beside.keys() & others.keys()):
            raise ValueError(f"the tokenizer makes {twice} itself: leave it out of others")
        return Placement(
            inputs=tokens,
            owner=owner,
            baseline=torch.tensor(self.mask_token_id),
            names=[name for name, _ in chosen],
            others=beside | others,
            dropped_with=tuple(beside) if self.masking == "drop" else None,
            is_cut=encoded.is_cut,
        )

    def _all_words(self, text: str) -> list[Word]:
        if regex.search(r"\p{Cs}", text):
            raise _DoesNotFit("is no valid Unicode: half of a surrogate pair stands in it", text)
        return words_of(text) if self.words is None else words_given_by(self.words, text)

    def _is_content(self, word: Word) -> bool:
        is_long = self.words is not None or has_two_letters(word.text)
        is_stop = word.text.lower().replace("’", "'") in self.stop_words
        return self.cover or (is_long and not is_stop)

    def _text_tokens(self, encoding, parts: tuple[str, ...]) -> list["_Token"]:
        """Where the tokens of the text stand, without those that are special."""
        special, tokens = set(self.tokenizer.all_special_ids), []
        rows = zip(
            encoding["input_ids"], encoding.sequence_ids(0), encoding["offset_mapping"], strict=True
        )
        for position, (token, part, (start, end)) in enumerate(rows):
            if part is None:
                continue
            written = parts[part][start:end]  # an unknown word is no "[UNK]" that was written
            if token not in special or written != self.tokenizer.convert_ids_to_tokens(token):
                tokens.append(_Token(position, part, start, end))
        return tokens


class _Token(NamedTuple):
    """A token by its position in the input, and where it stands in which sentence of a pair."""

    position: int
    part: int
    start: int
    end: int


class _Group(NamedTuple):
    """Words of a sentence that share tokens with each other and with no further word."""

    part: int
    words: list[Word]
    positions: list[int]


class _Encoded(NamedTuple):
    """A tokenized sample, its tokens of the text, and the players that may be drawn."""

    encoding: Mapping
    tokens: list[_Token]
    players: list[tuple[str, list[int]]]
    is_cut: bool


class _DoesNotFit(ValueError):
    """A text does not fit: `what` says why."""

    def __init__(self, what: str, text: str | tuple[str, ...]):
        self.what = what
        start = text[:80] if isinstance(text, str) else tuple(part[:80] for part in text)
        super().__init__(
            f"{what}: {start!r}. Choose sentences with WordPlayers.fits, or a smaller n"
        )


class _NeedsSegmenter(_DoesNotFit):
    """The text is in a script without spaces."""


def _groups(
    parts, words: list[tuple[int, Word]], uncut: list[_Token], tokens: list[_Token]
) -> list[_Group]:
    """Words that the input has whole, in order, grouped where one token holds parts of several.

    `uncut` are the tokens of the whole text, `tokens` those that the input has.
    """
    word_at = [[-1] * len(part) for part in parts]  # of each character
    for i, (part, word) in enumerate(words):
        word_at[part][word.start : word.end] = [i] * (word.end - word.start)

    def words_in(token: _Token) -> list[int]:
        return sorted({*word_at[token.part][token.start : token.end]} - {-1})

    group_of, groups = [*range(len(words))], {}
    for token in uncut:
        for before, i in pairwise(words_in(token)):
            group_of[i] = group_of[before]
    for i, (part, word) in enumerate(words):
        groups.setdefault(group_of[i], _Group(part, [], [])).words.append(word)
    missing = Counter(group_of[own[0]] for token in uncut if (own := words_in(token)))
    for token in tokens:
        if own := words_in(token):
            groups[group_of[own[0]]].positions.append(token.position)
            missing[group_of[own[0]]] -= 1
    return [group for i, group in groups.items() if group.positions and not missing[i]]


def _opening(tokens: list[_Token], parts, in_words: set[int], first: int) -> int:
    """Position of the first token that stands directly before the word at `first`, as a bracket."""
    index = next(i for i, token in enumerate(tokens) if token.position == first)
    for before, token in reversed([*pairwise(tokens[: index + 1])]):
        spaced = parts[token.part][token.start : token.start + 1].isspace()
        if spaced or (before.part, before.end) != (token.part, token.start):
            return token.position
        if before.position in in_words:
            break  # no space between two words: what is between them stays with the first
    return first


def _beside_tokens(encoding: Mapping) -> dict[str, Tensor]:
    """What the tokenizer makes for the model beside the tokens themselves, ``(1, tokens)``."""
    names = encoding.keys() - {"input_ids", "offset_mapping"}
    others = {name: torch.tensor([row]) for name, row in encoding.items() if name in names}
    pair = 1 in encoding.sequence_ids(0)
    if not pair and not others.get("token_type_ids", torch.ones(1)).any():
        del others["token_type_ids"]  # all 0 is what a model takes that is given none
    return others


def _parts(text) -> tuple[str, ...]:
    """A sentence, or the two of a pair."""
    if isinstance(text, str):
        return (text,)
    if isinstance(text, Sequence) and [isinstance(part, str) for part in text] == [True, True]:
        return tuple(text)
    raise ValueError(
        f"expected a list of sentences, or of pairs (first, second); it has {text!r:.80}"
    )


def _mask_token_id(tokenizer, mask_token: str | int | None) -> int:
    """The id of the token that stands for a masked one."""
    if mask_token is None:
        if tokenizer.mask_token_id is None:
            raise ValueError(
                "the tokenizer has no mask token to stand for a masked word: pass mask_token=, a "
                "token or its id, or masking='drop' to take the word out"
            )
        return tokenizer.mask_token_id
    if not isinstance(mask_token, str):
        if not 0 <= mask_token < len(tokenizer):
            raise ValueError(
                f"mask_token={mask_token} is no token's id: expected 0..{len(tokenizer) - 1}"
            )
        return int(mask_token)
    if mask_token in tokenizer.get_vocab():
        return tokenizer.get_vocab()[mask_token]
    pieces = tokenizer(mask_token, add_special_tokens=False)["input_ids"]
    if len(pieces) != 1 or pieces[0] == tokenizer.unk_token_id:
        raise ValueError(
            f"mask_token={mask_token!r} is not one token of this tokenizer, which reads it as "
            f"{tokenizer.convert_ids_to_tokens(pieces)}"
        )
    return pieces[0]
