# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "How far the data of pre-training may be from the task."
# ---

# %% [markdown]
# # How far may the domains be apart?
#
# **Key points**
#
# - One task, to tell kinds of clothing apart, and several sources to pre-train on: other pictures of
#   the same kinds, other kinds, blurred, coloured and inverted pictures, photographs of objects and of
#   flowers. And one task of sentences, with other kinds of text as sources.
# - The distance of a source from the task is measured, and held against the gain in accuracy, the
#   {term}`similarity` of what is reproducible before and after fine-tuning, and the {term}`origins` of
#   what fine-tuned runs know. So is the accuracy of a {term}`linear probe`.
# - What tells beforehand which source helps most? A quantity goes with another if their rank correlation
#   over sources can be told from 0. If not, it is *undecided*.
#
# *Needs: [Train it twice](02_train_it_twice), [How much data](10_how_much_data).*

# %% tags=["parameters"]
profile = "quick"  # smoke measures distances on fewer samples
record = "recorded/domains"  # records that differ in the source
texts = "recorded/domains_text"  # the same, of sentences
distances = "recorded/domains_distances.csv"  # where data are missing here
samples = 300  # of each source, for the distances

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import begin, by, recorded, study_figures, tables
from pi_lib.progress import track
from pi_lib.study import assets, backbones, comparisons, data, findings
from pi_lib.study.across_cells import FEWEST_CELLS, energy_distance
from pi_lib.study.cell import title_of

begin(profile)

# %%
samples = 40 if profile == "smoke" else samples
records = recorded(record)

# %% [markdown]
# ## A distance between two sets of pictures
#
# The features that a network trained on ImageNet computes of a picture describe fairly well what is on it.
# Two sets of pictures are as far apart as their features are, by the {term}`energy distance`
# {cite}`szekely2013`,
#
# $$D = \frac{2\,\mathbb{E}|X - Y| - \mathbb{E}|X - X'| - \mathbb{E}|Y - Y'|}{2\,\mathbb{E}|X - Y|},$$
#
# with $X, X'$ drawn from one set and $Y, Y'$ from the other. It is near 0 for two samples of one
# distribution, and at most 1.


# %% tags=["hide-input"]
def features(name):
    """Features of some training samples of a task, by a network with published weights."""
    image = data.kind(name) == "image"
    task = data.load(name, n_train=samples, n_test=10, **({"size": 64} if image else {}))
    encoder = backbones.build("efficientnet-lite0" if image else "minilm", 2)
    parts = []
    for start in range(0, samples, 50):
        inputs = task.train.take(range(start, min(start + 50, samples))).inputs
        with torch.no_grad():
            if image:
                parts.append(encoder.features(data.images(inputs)))
            else:
                tokens = backbones.tokenizer()(inputs, padding=True, return_tensors="pt")
                parts.append(encoder.features(**tokens))
    return torch.cat(parts).double()


def distances_from(task, sources):
    """Distance of each source from a task; recorded where the data are not on this machine."""
    of_task, stored = features(task), pd.read_csv(distances, index_col="source")
    measured = {}
    for source in track(sources, "distances"):
        try:
            measured[source] = energy_distance(features(source), of_task)
        except assets.MissingAsset:
            if source not in stored.index:
                raise
            measured[source] = pi.Estimate(*stored.loc[source, ["value", "low", "high"]])
    return measured


NAMES = {  # as the figures and tables have them
    "fashion-mnist+odd": "same kinds",
    "fashion-mnist+odd+first-classes": "other kinds",
    "fashion-mnist+odd+blurred": "blurred",
    "fashion-mnist+odd+coloured": "coloured",
    "fashion-mnist+odd+inverted": "inverted",
    "": "published weights",
}


def nearest_first(records):
    """Records by their source, and its distance; weights whose source is not at hand have none."""
    records = by(records, lambda r: r.header["source"] or "")
    task = next(iter(records.values())).header["task"]
    apart = distances_from(task, [source for source in records if source])
    apart |= {"": pi.Estimate.unmeasurable("its data are not at hand")}
    order = sorted(records, key=lambda source: np.nan_to_num(apart[source].value, nan=np.inf))
    names = {source: NAMES.get(source) or title_of(source) for source in order}
    return (
        {name: records[source] for source, name in names.items()},
        {name: apart[source] for source, name in names.items()},
    )


def show_sources(records, apart):
    """What the networks were pre-trained on, and how the cells were computed."""
    same, table = tables.alike(tables.pretraining(records))
    table.insert(0, "distance", [*map(tables.said, apart.values())])
    display(Markdown("Pre-training" + f" ({same})" * bool(same) + ":"))
    display(table)
    same, table = tables.alike(tables.settings(records).set_axis([*records]))
    task = title_of(next(iter(records.values())).header["task"])
    display(
        Markdown(
            f"Fine-tuning and training from scratch on {task} ({same}). "
            + tables.guessing(records.values())
        )
    )
    display(table)


# %% [markdown]
# ## The sources
#
# *Same kinds* are other pictures of all kinds of Fashion-MNIST, *other kinds* only of those that the
# task does not have. “Odd” and “even” are every second picture of Fashion-MNIST, “first” and “last classes”
# the two halves of its kinds. No picture is in both a source and the task. One network is pre-trained on each
# source, from random weights, then fine-tuned. Training from scratch is the same whatever the source.

# %% tags=["hide-input"]
if records:
    records, apart = nearest_first(records)
    show_sources(records, apart)
runs = {name: findings.Runs(r) for name, r in records.items()}

# %% [markdown]
# ## Does pre-training help?

# %% mystnb={"figure": {"name": "fig-sources", "caption": "Over sources, pre-training {glue:text}`sources_helps`. The sources, from the nearest to the farthest. Left: where what fine-tuned runs reproducibly know comes from. Right: gain in accuracy of fine-tuning over training from scratch, with 95 % intervals. Noise may take a share below 0, which is drawn as 0; the others then add up to more than 100 %, and are drawn narrower."}, "image": {"alt": "A stacked bar for each source of pre-training, split into pre-training alone, both, scratch alone and neither; beside it a dot with the gain in accuracy."}}
if records:
    gain = {name: r.gain() for name, r in records.items()}
    figure = study_figures.origins(findings.origins_table(runs), gain)

# %% tags=["hide-input"]
gains = comparisons.gains(runs)
glue("sources_helps", tables.in_counts(gains), display=False)
if records:
    display(Markdown(f"Pre-training, by source: {tables.in_words(gains)}."))
    display(tables.judged(gains, tested="gain in accuracy over scratch"))

# %% [markdown]
# Pre-training *helps*, or *hurts*, if the 95 % interval of the gain lies on one side of 0 and its p,
# corrected for the number of rows of the table (Holm), is below 0.05. If not, it is *undecided*. Every
# verdict of this page is made so. Of the shares in the figure, all but *neither* are 0 by chance.
#
# ## What goes with the distance
#
# The interval of a rank correlation comes from resampling the sources, its p from permuting them. With few
# sources only a close relation can be told from 0.

# %% mystnb={"figure": {"name": "fig-domains", "caption": "As the distance from the task grows, the accuracy of a linear probe {glue:text}`domains_accuracy`, its similarity with fine-tuned runs {glue:text}`domains_similarity`, the share from pre-training alone {glue:text}`domains_origins`, and the gain over scratch {glue:text}`domains_distance`. A mark for each source. Whiskers: 95 % intervals. Each panel has a scale of its own; what is not measurable is left out."}, "image": {"alt": "Four panels over the energy distance, with a named mark and whiskers for each source."}}
SHOWN = ["accuracy probe", "gain scratch", "similarity probe", "origins pretraining"]
if records:
    measured = comparisons.quantities(runs)
    x = {name: (d.value, d.low, d.high) for name, d in apart.items()}
    x = pd.DataFrame.from_dict(x, orient="index", columns=["x", "x_low", "x_high"])
    key = measured["quantity"] + " " + measured["of"]
    shown = measured[key.isin(SHOWN)].join(x, on="cell")
    figure = study_figures.over(shown, "energy distance", joined=False)


# %% tags=["hide-input"]
def goes_with(measured, x, name, least, largest):
    """What goes with a number of the sources, in words and as a table."""
    trends = comparisons.trends(measured, x)
    display(Markdown(f"As {name} grows: {tables.in_words(trends)}."))
    columns = {"first": least, "last": largest, "tested": "rank correlation"}
    if trends["cells"].nunique() > 1:
        columns["cells"] = "sources"
    display(tables.judged(trends, **columns))
    return trends


def only(measured, *keys):
    """The rows of some quantities, or of these of one arm."""
    key = measured["quantity"] + " " + measured["of"]
    return measured[key.isin(keys) | measured["quantity"].isin(keys)]


KNOWLEDGE = ("similarity", "origins")
domains = dict.fromkeys(["accuracy", "similarity", "origins", "distance"], "not measured")
if records:
    distance = {name: x.value for name, x in apart.items()}
    asked = only(measured, "accuracy probe", *KNOWLEDGE)
    trends = goes_with(asked, distance, "the distance", "nearest source", "farthest source")
    trends = only(trends, *SHOWN)
    domains |= dict(zip(trends["quantity"], trends["verdict"], strict=True))

# %% [markdown]
# ## What goes with the accuracy of a probe
#
# A probe costs one pass over the data. Does its accuracy tell what fine-tuning will keep? (Noise may take a
# similarity above 1, or a share below 0.)

# %% tags=["hide-input"]
if records:
    probes = {name: r.accuracy("probe").value for name, r in records.items()}
    asked = only(measured, *KNOWLEDGE)
    goes_with(asked, probes, "the accuracy of the probe", "least accurate", "most accurate")

# %% [markdown]
# ## What tells which source helps most?
#
# Two numbers are known before any fine-tuning: the distance, and the accuracy of a probe. The others
# compare the network before and after. One of them compares single players alone, by their
# {term}`Banzhaf values <Banzhaf value>`, as an attribution to patches would.

# %% tags=["hide-input"]
if records:
    distances_of = [
        {"cell": name, "quantity": "distance", "of": "source"} | vars(x)
        for name, x in apart.items()
    ]
    of_players = [
        {"cell": name, "quantity": "players", "of": "probe"}
        | vars(cell.moments([1]).similarity("probe", "finetuned"))
        for name, cell in runs.items()
    ]
    others = only(measured, "accuracy probe", "similarity probe", "origins pretraining")
    gain = {name: r.gain().value for name, r in records.items()}
    asked = pd.concat([pd.DataFrame(distances_of), others, pd.DataFrame(of_players)])
    trends = goes_with(asked, gain, "the gain", "smallest gain", "largest gain")
    domains |= trends.set_index("quantity").loc[["distance"], "verdict"].to_dict()
    before = only(trends, "distance", "accuracy")
    names = tables.quantities(before[before["verdict"].isin(["rises", "falls"])])
    display(
        Markdown(
            f"Known before any fine-tuning, and going with the gain: {', '.join(names)}."
            if names
            else f"From {len(records)} sources it cannot be said that the distance or the accuracy "
            "of a probe, which are known before any fine-tuning, goes with the gain."
        )
    )
for quantity, word in domains.items():
    glue(f"domains_{quantity}", tables.trend(word), display=False)

# %% [markdown]
# ## Other kinds of text
#
# The same question, asked of sentences. The task is to tell whether a sentence of a newspaper's editorial is
# negative or positive. A network is pre-trained, from random weights, on the same question of other
# rated texts (see [](../data)). Beside them stand the network's published weights; their data are not at
# hand, so they have no distance. The other distances are between features that the published weights
# give.

# %% tags=["hide-input"]
texts_records = recorded(texts)
if texts_records:
    texts_records, apart = nearest_first(texts_records)
    show_sources(texts_records, apart)
texts_runs = {name: findings.Runs(r) for name, r in texts_records.items()}

# %% mystnb={"figure": {"name": "fig-texts", "caption": "Over sources of sentences, pre-training {glue:text}`texts_helps`. The sources, from the nearest to the farthest, and the published weights. Left: where what fine-tuned runs reproducibly know comes from. Right: gain in accuracy of fine-tuning over training from scratch, with 95 % intervals."}, "image": {"alt": "A stacked bar for each source of sentences, split into pre-training alone, both, scratch alone and neither; beside it a dot with the gain in accuracy."}}
if texts_records:
    gain = {name: r.gain() for name, r in texts_records.items()}
    figure = study_figures.origins(findings.origins_table(texts_runs), gain)

# %% tags=["hide-input"]
gains = comparisons.gains(texts_runs)
glue("texts_helps", tables.in_counts(gains), display=False)
if texts_records:
    display(Markdown(f"Pre-training, by source: {tables.in_words(gains)}."))
    display(tables.judged(gains, tested="gain in accuracy over scratch"))
    measured = comparisons.quantities(texts_runs)
    distance = {name: x.value for name, x in apart.items() if x.measurable}
    if len(distance) >= FEWEST_CELLS:
        asked = only(measured, "gain", "accuracy probe", *KNOWLEDGE)
        goes_with(asked, distance, "the distance", "nearest source", "farthest source")
    else:
        display(
            Markdown(
                f"What goes with the distance is **not measurable** from {len(distance)} sources: "
                f"a rank correlation needs {FEWEST_CELLS}. What there is of each source:"
            )
        )
        asked = only(measured, "accuracy probe", "similarity")
        named = asked.assign(name=tables.quantities(asked))
        display(tables.estimates(named, index="cell", columns="name"))

# %% [markdown]
# ## What this rests on
#
# One small network and one task of pictures, and one of each of sentences. Sources differ in more than their
# distance: in how many samples they have, and how hard they are. A rank correlation describes these
# sources; it is no cause. Scratch runs have as many steps as fine-tuned runs; trained longer, they may
# come closer. The intervals of single numbers are over test samples, for the runs and the one
# pre-training of each source that there are. To compute the cells again:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/domains.yml \
#         --record notebooks/recorded/domains
#     python -m pi_lib study --grid notebooks/grids/domains_text.yml \
#         --record notebooks/recorded/domains_text
#
# Here the data of pre-training changed. Next they stay, and what is learned from them changes:
# [Which pre-training?](12_which_pretraining)
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
if records or texts_records:
    both = records | texts_records
    display(tables.provenance(both).set_axis([*both]))
