# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How far may the domains be apart?
#
# **Key points**
#
# - One downstream task, five classes of clothing, and seven sources to pre-train on: other pictures
#   of the same kind, other classes, blurred, coloured and inverted pictures, photographs of objects
#   and of flowers. And one of sentences, with other kinds of text as sources.
# - A measure of how far a source's pictures are from the task's, against what fine-tuning preserves
#   and against the gain over scratch.
# - What tells best which network transfers: the distance, a probe, preserved interactions, or what
#   others look at, Shapley values and the similarity of features?
#
# *Needs: [What is preserved](03_what_is_preserved) for what is measured. Four minutes to read, a
# minute to run: the cells were recorded beforehand.*
#
# :::{warning}
# The numbers of this chapter were recorded by an earlier form of the study: one run of each arm and
# seed, and each seed on samples of its own. There is no second run in them, so what chance gives, and
# what would come back, cannot be said ([Train it twice](02_train_it_twice)). Read its shares of
# interactions as descriptions, not as findings. Accuracies and gains stand as they are.
# :::

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/domains.parquet"
distances = "recorded/domains_distances.csv"  # of sources that this machine does not have
others = "recorded/domains_others.csv"  # what else might tell what a source is worth
texts = "recorded/domains_text.parquet"
samples = 300  # of each source, for the distances

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import begin, figures
from pi_lib.progress import track
from pi_lib.statistics import FEWEST_CELLS
from pi_lib.study import assets, backbones, data, single_runs

begin(profile)
samples = 40 if profile == "smoke" else samples
table, about = single_runs.recorded(record)
(target,) = table["task"].unique()
sources = table["source"].unique().tolist()

# %% [markdown]
# ## A distance between two sets of pictures
#
# What a network trained on ImageNet makes of a picture, its features, is a fair description of what
# is on it. Two sets are as far apart as their features: the energy distance
# {cite}`szekely2013`, between 0, the same distribution, and 1,
#
# $$D = \frac{2\,\mathbb{E}|X - Y| - \mathbb{E}|X - X'| - \mathbb{E}|Y - Y'|}{2\,\mathbb{E}|X - Y|},$$
#
# with $X, X'$ drawn from one set and $Y, Y'$ from the other. Pairs of different pictures are
# averaged, so two halves of one set come out at 0, give or take.


# %%
def features(name):
    """Features of some samples of a task's training set, by a network with published weights."""
    image = data.kind(name) == "image"
    task = data.load(name, n_train=samples, n_test=10, **({"size": 64} if image else {}))
    encoder = backbones.build("efficientnet-lite0" if image else "minilm", 2)
    parts = []
    for start in range(0, samples, 50):
        part = task.train.take(range(start, min(start + 50, samples))).inputs
        with torch.no_grad():
            if image:
                parts.append(encoder.features(data.images(part)))
            else:
                tokens = backbones.tokenizer()(part, padding=True, return_tensors="pt")
                parts.append(encoder.features(**tokens))
    return torch.cat(parts).double()


def distance(x, y):
    """Energy distance with its 95 % interval, from resampling the samples of both sets."""
    between, within = torch.cdist(x, y).numpy(), [torch.cdist(z, z).numpy() for z in (x, y)]

    def statistic(i, j):
        apart = between[np.ix_(i, j)].mean()
        # A sample drawn twice would be at distance 0 from itself.
        inner = [
            d[np.ix_(k, k)][k[:, None] != k[None]].mean()
            for d, k in zip(within, (i, j), strict=True)
        ]
        return (2 * apart - sum(inner)) / (2 * apart)

    rng, all_x, all_y = np.random.default_rng(0), np.arange(len(x)), np.arange(len(y))
    draws = [statistic(rng.choice(all_x, len(x)), rng.choice(all_y, len(y))) for _ in range(200)]
    return pi.Estimate(statistic(all_x, all_y), *np.quantile(draws, [0.025, 0.975]).tolist())


known = pd.read_csv(distances, index_col="source") if Path(distances).exists() else None
here, found, taken = features(target), {}, []
for source in track(sources, "distances"):
    try:
        found[source] = distance(features(source), here)
    except assets.MissingAsset:
        if known is None or source not in known.index:
            raise
        found[source] = pi.Estimate(*known.loc[source, ["value", "low", "high"]])
        taken.append(source)


# %% tags=["hide-input"]
def by_source(table, found):
    """The summary of every source with its distance, the nearest first."""
    numbers = pd.concat(
        [single_runs.summary(rows).set_axis([source]) for source, rows in table.groupby("source")]
    )
    numbers.insert(0, "distance", pd.Series(found))
    return numbers.sort_values("distance", key=lambda column: column.map(lambda e: e.value))


numbers = by_source(table, found)
used = {cell["source"]: cell["settings"]["n_source"] for cell in about["cells"]}
shown = numbers.map(str)
shown.insert(0, "pictures", [used[source] for source in numbers.index])
display(shown.rename_axis("pre-trained on"))
seeds = int(table.groupby("source")["seed"].nunique().min())
said = (
    f" The distance of {', '.join(taken)} was recorded: the data are not on this machine."
    * bool(taken)
)
display(
    Markdown(
        f"Downstream task: {target}, {about['cells'][0]['settings']['n_train']} training samples; at least {seeds} "
        f"seeds a source; intervals of 95 %.{said}"
    )
)

# %% [markdown]
# `+odd` and `+even` are every second picture, so that no picture is in both; `+first-classes` are the
# classes that the task has not. The scratch network is the same whatever the source.

# %% mystnb={"figure": {"name": "fig-domains", "caption": "Distance of the source from the task against the preserved share, the probe's accuracy and the gain over scratch, a mark per source, with 95 % intervals."}, "image": {"alt": "Three scatter plots with one mark per source of pre-training."}}
figure = figures.over_cells(
    numbers,
    "distance",
    ["preserved", "accuracy probe", "gain over scratch"],
    xlabel="energy distance of the pictures",
)

# %% [markdown]
# ## Does distance tell what a source is worth?

# %% tags=["hide-input"]
WORDS = {"above": "**rises** with", "below": "**falls** with", "undecided": "is **undecided** over"}
lines = []
for column, name in (
    ("preserved", "the preserved share"),
    ("new", "the new share"),
    ("accuracy probe", "the accuracy of a probe"),
    ("accuracy finetuned", "the accuracy after fine-tuning"),
    ("gain over scratch", "the gain over scratch"),
):
    rho = single_runs.rank_correlation(
        [e.value for e in numbers["distance"]], [e.value for e in numbers[column]]
    )
    lines.append(
        f"- {name} {WORDS[rho.compared_with(0)]} the distance: rank correlation {rho}, {len(numbers)} "
        "sources."
    )
display(Markdown("\n".join(lines)))

# %% tags=["hide-input"]
gains = numbers["gain over scratch"]
helps, hurts = (
    [source for source, gain in gains.items() if gain.compared_with(0) == side]
    for side in ("above", "below")
)
best = gains.map(lambda gain: gain.value).idxmax()
worst = gains.map(lambda gain: gain.value).idxmin()
display(
    Markdown(
        f"Pre-training on {len(helps)} of {len(gains)} sources decidedly helps, on {len(hurts)} it decidedly "
        f"hurts. Most: {best}, gain {gains[best]}, at distance {found[best]}; least: {worst}, gain "
        f"{gains[worst]}, at distance {found[worst]}. In practice: "
        + (
            "prefer the source whose pictures are nearest, and measure it before training anything."
            if single_runs.rank_correlation(
                [e.value for e in numbers["distance"]], [e.value for e in gains]
            ).compared_with(0)
            == "below"
            else "distance alone does not tell which source to take; try a probe of each, which costs "
            "a forward pass over the data."
        )
    )
)

# %% [markdown]
# ## What tells which network transfers?
#
# Two numbers of the sources above can be had before any fine-tuning: the distance, and the accuracy of a
# probe. Three compare the network before and after: the preserved share of interactions; the
# correlation of the players' Shapley values, which are the interactions with the players of each
# sharing it equally; and linear CKA {cite}`kornblith2019`, the similarity of the two encoders'
# features of the test pictures. Each is held against the gain over scratch.


# %% tags=["hide-input"]
measured = pd.read_csv(others).groupby("source")
for name in ("Shapley values", "CKA"):
    numbers[name] = [pi.bootstrap(measured.get_group(s)[name].to_numpy()) for s in numbers.index]
numbers[["Shapley values", "CKA"]].map(str)  # intervals over seeds

# %% tags=["hide-input"]
PREDICTORS = {
    "distance": ("energy distance of the pictures", "before"),
    "accuracy probe": ("accuracy of a probe", "before"),
    "preserved": ("preserved share of interactions", "after"),
    "Shapley values": ("correlation of Shapley values", "after"),
    "CKA": ("CKA of features", "after"),
}
told = pd.DataFrame(
    {
        "predictor": name,
        "known": f"{when} fine-tuning",
        "rank correlation with the gain": single_runs.rank_correlation(
            [e.value for e in numbers[column]], [e.value for e in numbers["gain over scratch"]]
        ),
    }
    for column, (name, when) in PREDICTORS.items()
).set_index("predictor")
display(told.map(str))
sure = [name for name, e in told.iloc[:, 1].items() if e.compared_with(0) != "undecided"]
display(
    Markdown(
        f"With {len(numbers)} sources, the interval lies on one side of 0 for: {', '.join(sure) or 'none'}. "
        + (
            "Interactions are among them."
            if PREDICTORS["preserved"][0] in sure
            else "The preserved share of interactions is not among them: it describes what "
            "fine-tuning did, and does not tell what a source is worth."
        )
    )
)

# %% [markdown]
# ## Other kinds of text
#
# The same question of sentences. The task is to tell whether a sentence of a newspaper's editorial is
# negative or positive; a network is pre-trained, from random weights, to tell it of product reviews, of
# film reviews, or of tweets, which the same people rated. Beside them stand the network's published
# weights: what they were trained on is not at hand, so that they have no distance. Distances are between
# the features of those.

# %% tags=["hide-input"]
text, about_text = single_runs.recorded(texts)
(text_target,) = text["task"].unique()
here, apart = features(text_target), {"published": pi.Estimate(np.nan, np.nan, np.nan)}
for source in track([s for s in text["source"].unique() if s not in apart], "distances"):
    apart[source] = distance(features(source), here)
text_numbers = by_source(text, apart)
display(
    text_numbers.rename_axis("pre-trained on").map(lambda e: "" if np.isnan(e.value) else str(e))
)
settings = about_text["cells"][0]["settings"]
display(
    Markdown(
        f"Downstream task: {text_target}, {settings['n_train']} training sentences; {settings['n_source']} sentences "
        f"of each source; {text['seed'].nunique()} seeds; {about_text['cells'][0]['backbone']}; intervals of 95 %."
    )
)

# %% mystnb={"figure": {"name": "fig-domains-text", "caption": "Distance of the source's sentences from the task's against the preserved share, the probe's accuracy and the gain over scratch, a mark per source, with 95 % intervals. The published weights have no distance."}, "image": {"alt": "Three scatter plots with one mark per source of sentences."}}
figure = figures.over_cells(
    text_numbers.drop("published"),
    "distance",
    ["preserved", "accuracy probe", "gain over scratch"],
    xlabel="energy distance of the sentences",
)

# %% tags=["hide-input"]
gains = text_numbers["gain over scratch"].drop("published")
published = text_numbers.loc["published", "gain over scratch"]
SIDES = {"above": "helps", "below": "hurts", "undecided": "is undecided"}
told = "; ".join(f"{s}, {SIDES[e.compared_with(0)]} (gain {e})" for s, e in gains.items())
sure = [gain.compared_with(0) for gain in gains]
display(
    Markdown(
        f"From the nearest to the farthest: {told}. With {len(gains)} kinds of text, fewer than "
        f"{FEWEST_CELLS}, whether distance matters stays **undecided**. The published weights: "
        f"{SIDES[published.compared_with(0)]} (gain {published}). In practice: "
        + (
            "take published weights; pre-training on a few thousand sentences of another kind is no "
            "substitute."
            if published.compared_with(0) == "above" and sure.count("above") < len(sure)
            else "another kind of text is worth pre-training on"
            + (
                ", and published weights are worth decidedly more."
                if published.low > max(gain.high for gain in gains)
                else "."
            )
            if sure.count("above") == len(sure)
            else "neither the published weights nor another kind of text decidedly help here: try scratch too."
        )
    )
)

# %% [markdown]
# ## What this rests on
#
# One small network (ResNet-20 at 32 px), one task, and sources of unlike difficulty: CIFAR-10 has ten
# classes of objects, Flowers five, of fewer pictures, which are passed over more often. Of sentences,
# three kinds, a task of few sentences, and pre-training far shorter than that of published weights. The
# same cells with several runs, as records of games:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/domains.yml \
#         --record FOLDER_OF_RECORDS
#     python -m pi_lib study --grid notebooks/grids/domains_text.yml \
#         --record FOLDER_OF_RECORDS

# %% tags=["hide-cell"]
