"""Texts that people rated for VADER: of film and product reviews, editorials and tweets."""

import html
from pathlib import Path

import numpy as np

from pi_lib.study import assets
from pi_lib.study.data.samples import DataSet, Samples

TEXTS = {  # by name: the asset, its file's beginning, and what the texts are
    "movie-reviews": (
        "movie-reviews",
        "movieReviewSnippets",
        "film review sentences of Pang and Lee (2004)",
    ),
    "product-reviews": (
        "rated-texts",
        "amazonReviewSnippets",
        "sentences of product reviews of Hu and Liu (2004)",
    ),
    "editorials": ("rated-texts", "nytEditorialSnippets", "sentences of newspaper editorials"),
    "tweets": ("rated-texts", "tweets", "tweets"),
}


def load(name: str, folder: str | Path | None = None) -> DataSet:
    """The texts of one kind that are rated clearly negative or positive.

    Four in five are for training: one split for good, of which no argument decides.
    """
    asset, file, what = TEXTS[name]
    fetched = assets.fetch(asset, folder)
    rows = {}  # by sentence: a sentence that comes twice counts once
    lines = (fetched / f"{file}_GroundTruth.txt").read_text("utf-8").splitlines()
    for at, line in enumerate(lines, 1):
        _, rating, sentence = line.split("\t")
        if abs(float(rating)) >= 1:  # the others are neither clearly negative nor positive
            rows.setdefault(_clean(sentence), (at, float(rating) > 0))
    sentences = list(rows)
    ids, labels = np.array(list(rows.values())).T
    shuffled = np.random.default_rng(20140601).permutation(len(sentences))
    train, test = (
        Samples([sentences[i] for i in part], labels[part], ids[part])
        for part in map(np.sort, np.split(shuffled, [len(sentences) * 4 // 5]))
    )
    origin = (
        f"{what}, rated by 20 people each for VADER (Hutto and Gilbert 2014), MIT; kept where the "
        "mean rating is at most -1 or at least 1"
    )
    return DataSet(("negative", "positive"), train, test, origin, kind="text")


def _clean(sentence: str) -> str:
    """A sentence without the traces of its file: doubled quotes, entities, runs of blanks.

    Examples
    --------
    >>> _clean("a  `new' ''Conan''   &amp; more ")
    'a \\'new\\' "Conan" & more'
    """
    return " ".join(html.unescape(sentence).replace("''", '"').replace("`", "'").split())
