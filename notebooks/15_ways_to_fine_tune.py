# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "LoRA, frozen layers, probing first, a pull towards the start: what each keeps and forgets."
# ---

# %% [markdown]
# # Ways to fine-tune
#
# **Key points**
#
# - Training all layers is not the only way to fine-tune. LoRA, frozen layers, probing first, a pull towards
#   the start and low learning rates are each said to forget less. From the same weights, on the same samples,
#   each is compared here with training all layers.
# - Three questions to each way: is it as accurate? Does it stay more {term}`similar <similarity>` to the
#   {term}`linear probe`, whose encoder is the pre-trained one? And can the network still do the *old
#   task*, that of pre-training?
# - If {term}`interactions <interaction>` measure what a network keeps, ways that stay more similar should
#   forget less. Whether they do is asked of a rank correlation.
#
# *Needs: [What is preserved](03_what_is_preserved),
# [What is discarded knowledge good for?](13_discarded_knowledge).*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/ways"  # folder of records that differ in the way to fine-tune

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.book import begin, recorded, study_figures, tables
from pi_lib.study import comparisons, findings
from pi_lib.study.across_cells import rank_correlation
from pi_lib.study.elsewhere import CORRUPTIONS

begin(profile)

# %% tags=["hide-input"]
cells = {
    cell: ways
    for cell, ways in comparisons.by_way(recorded(record).values()).items()
    if comparisons.ALL_LAYERS in ways
}
plain = {cell: ways[comparisons.ALL_LAYERS] for cell, ways in cells.items()}
runs = {(cell, way): findings.Runs(r) for cell, ways in cells.items() for way, r in ways.items()}

# %% [markdown]
# ## The ways
#
# All are options of one call, `pi_lib.finetune`:
#
# | way | what is trained | option |
# |---|---|---|
# | all layers | every weight, at the learning rate that is best on the {term}`validation set` | |
# | a lower, a higher learning rate | every weight, at a rate that was set beforehand | `learning_rate=` |
# | frozen | every weight but those of the first layers, counted from the input | `frozen=0.5` |
# | probe first | every weight; the head starts as the linear probe's optimum {cite}`kumar2022` | `probe_first=True` |
# | pull | every weight; the loss grows with the squared distance from the start {cite}`li2018` | `pull=0.1` |
# | LoRA | a matrix of low rank beside the weights of each layer, and the head {cite}`hu2022` | `lora=8` |
#
# LoRA is that of the package `peft`, on linear layers, attention, and convolutions that are not grouped.
# BatchNorm keeps its pre-trained scales and statistics there, as it does in frozen layers. After training,
# the matrices of LoRA are added to the weights, so that a plain network is asked. Each way chooses its learning
# rate on the validation set, if it has none of its own. With sentences, rates are set beforehand: one for all
# ways but those that are about the rate, and another one for LoRA (see *Learning rates* below).

# %% tags=["hide-input"]
if cells:
    display(tables.settings(plain).set_axis([*plain]))

# %% [markdown]
# The linear probe and scratch runs of a {term}`cell` are the same for all ways.
#
# ## Is it as accurate, and what does it keep?
#
# The similarity is that of what is reproducible in the probe and in fine-tuned runs, 0 by chance and 1 if
# both know the same. Of what fine-tuned runs reproducibly know, pre-training *alone* explains a share, 0 by
# chance: the part that training from scratch would not have brought ({term}`origins`).

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-ways", "caption": "Against training all layers, the accuracy {glue:text}`ways_accuracy` ways and cells, the similarity with the probe {glue:text}`ways_similarity`, and the share from pre-training alone {glue:text}`ways_origins`. Green: more, orange: less, grey: undecided. Whiskers: 95 % intervals, paired by test sample. Left out: not measurable."}, "image": {"alt": "Rows of panels, one for each quantity, with a panel for each cell; in each panel a dot with whiskers for every way to fine-tune, around a line at zero."}}
pairs = {
    (cell, way): (of_way, runs[cell, comparisons.ALL_LAYERS])
    for (cell, way), of_way in runs.items()
    if way != comparisons.ALL_LAYERS
}
compared = comparisons.contrasts(pairs)
compared = compared.assign(
    name=[way for _, way in compared["cell"]],
    cell=[cell for cell, _ in compared["cell"]],
    quantity=tables.quantities(compared),
)


def only(*keys):
    """The comparisons of some quantities."""
    return compared[compared["quantity"].isin([tables.QUANTITIES[key] for key in keys])]


MAIN = ("accuracy", "finetuned"), ("similarity", "probe"), ("origins", "pretraining")
for key in MAIN:
    glue(f"ways_{key[0]}", tables.in_counts(only(key)), display=False)
if pairs:
    figure = study_figures.panels(only(*MAIN), "minus all layers")

# %% tags=["hide-input"]
if pairs:
    display(tables.how_often(only(*MAIN)))

# %% [markdown]
# A quantity is *more* or *less* if the 95 % interval of the difference lies on one side of 0 and its p,
# corrected for all comparisons of the same quantity (Holm), is below 0.05. If not, it is *undecided*. The table
# counts cells.
#
# The numbers themselves, with the {term}`reliability` of fine-tuned runs, which bounds what can be said of
# a single run:

# %% tags=["hide-cell"]
measured = pd.concat([comparisons.quantities(runs), comparisons.elsewhere(runs)])
SHOWN = {*MAIN, *(("origins", part) for part in tables.PARTS), ("reliability", "finetuned")}
shown = measured[[key in SHOWN for key in zip(measured["quantity"], measured["of"], strict=True)]]
if runs:
    names = [f"{cell}: {way}" for cell, way in shown["cell"]]
    shown = shown.assign(name=names, words=tables.quantities(shown))
    display(tables.estimates(shown, index="name", columns="words"))

# %% [markdown]
# ## On corrupted pictures
#
# The same test pictures with noise, blurred, at low contrast and inverted, as in
# [What is discarded knowledge good for?](13_discarded_knowledge)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-ways-corrupted", "caption": "Against training all layers, the accuracy on corrupted test pictures {glue:text}`ways_corrupted` comparisons: each way, cell and corruption. Green: more, orange: less, grey: undecided. Whiskers: 95 % intervals, paired by test picture."}, "image": {"alt": "A row of panels for each corruption, with a panel for each cell of images; a dot with whiskers for every way, around a line at zero."}}
corrupted = only(*((kind, "finetuned") for kind in CORRUPTIONS))
glue("ways_corrupted", tables.in_counts(corrupted), display=False)
if len(corrupted):
    figure = study_figures.panels(corrupted, "minus all layers")

# %% tags=["hide-input"]
if len(corrupted):
    display(tables.how_often(corrupted))

# %% [markdown]
# ## On the old task
#
# What a network keeps, by its interactions, should be something that it can still do. Here is a test that
# knows nothing of interactions: a linear probe for the *old task* is fitted on the fine-tuned encoder. What a
# probe on the pre-trained encoder gets right and this one does not, the encoder has forgotten. The test needs
# the data of pre-training, and so is made where pre-training was done here.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-forgetting", "caption": "Against the pre-trained encoder, the accuracy of a linear probe on the old task {glue:text}`ways_forgetting` ways and cells. Left of 0: forgotten. Whiskers: 95 % intervals, paired by test picture."}, "image": {"alt": "A panel for each cell with a source task; a dot with whiskers for every way to fine-tune, around a line at zero."}}
old_task = {
    (cell, way): of_way.record.gain("probe", on="source")
    for (cell, way), of_way in runs.items()
    if "source" in of_way.record.elsewhere
}
forgotten = findings.judged(old_task)
forgotten = forgotten.assign(
    name=[way for _, way in old_task], cell=[cell for cell, _ in old_task], quantity="old task"
)
forgotten["verdict"] = forgotten["verdict"].replace({"confirmed": "more", "contradicted": "less"})
glue("ways_forgetting", tables.in_counts(forgotten), display=False)
if old_task:
    figure = study_figures.panels(forgotten, "accuracy, minus the pre-trained encoder's")

# %% tags=["hide-input"]
if old_task:
    before = [
        f"{cell}: {r.accuracy('probe', on='source')} on the pre-trained encoder, "
        f"{r.accuracy('scratch', on='source')} on one trained from scratch on the new task"
        for cell, r in plain.items()
        if "source" in r.elsewhere
    ]
    display(Markdown("Accuracy on the old task:\n\n- " + "\n- ".join(before)))
    display(Markdown("Compared with all layers:"))
    display(tables.how_often(only(("source", "finetuned"))))

# %% [markdown]
# ## Do ways that stay more similar forget less?
#
# Each way of each cell is a mark. Cells differ in how much is kept, whatever the way. So from both numbers the
# mean of the cell is subtracted before they are ranked: the rank correlation asks about ways, not about cells.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-kept-and-similar", "caption": "Whether ways whose runs stay more similar to the probe forget less: {glue:text}`ways_similar`. A mark for each way to fine-tune, a colour for each cell. Whiskers: 95 % intervals. What is not measurable is left out."}, "image": {"alt": "A scatter plot with one mark per way and cell; similarity from left to right, accuracy on the old task upwards, with whiskers in both directions."}}
rows = []
for (cell, way), y in old_task.items():
    x = runs[cell, way].moments().similarity("probe", "finetuned")
    rows.append((cell, way, x.value, x.low, x.high, y.value, y.low, y.high))
columns = ["cell", "way", "x", "x_low", "x_high", "value", "low", "high"]
marks = pd.DataFrame(rows, columns=columns).dropna(subset=["x", "value"])
if len(marks):
    figure = study_figures.scatter(
        marks,
        "similarity with the linear probe",
        "accuracy on the old task,\nminus the pre-trained encoder's",
    )

# %% tags=["hide-input"]
SAYS = {
    "confirmed": "ways whose runs stay more similar to the probe forget less",
    "contradicted": "ways whose runs stay more similar to the probe forget **more**",
    "undecided": "it is **undecided** whether ways whose runs stay more similar forget less",
    "not measurable": "whether similar runs forget less is **not measurable**",
}
if not len(marks):
    glue("ways_similar", "not measured", display=False)
else:
    centred = marks[["x", "value"]] - marks.groupby("cell")[["x", "value"]].transform("mean")
    numbers = {"all cells": rank_correlation(centred["x"], centred["value"])}
    for cell, part in marks.groupby("cell", sort=False):
        numbers[cell] = rank_correlation(part["x"], part["value"])
    together = findings.judged({"all": numbers.pop("all cells")})
    glue("ways_similar", findings.in_words(together), display=False)
    together = together.iloc[0]
    by_cell = [f"- {cell}: {number} over its ways" for cell, number in numbers.items()]
    display(
        Markdown(
            f"Over {len(marks)} marks, {SAYS[together['verdict']]}: rank correlation "
            f"{together['tested']}, p = {together['p']:.2g}. In each cell alone:\n\n"
            + "\n".join(by_cell)
        )
    )

# %% [markdown]
# Ways of one cell start from the same weights and see the same samples, and are no independent
# experiments: the interval is rather too narrow. A way that changes little both stays similar and forgets
# little; the correlation is no cause.
#
# ## In practice

# %% tags=["hide-input"]
TASKS = {
    "new task": only(("accuracy", "finetuned")),
    "old task": only(("source", "finetuned")),
}
lines = []
for way in compared["name"].unique():
    words = []
    for task, rows in TASKS.items():
        verdicts = rows.loc[rows["name"] == way, "verdict"]
        words += [
            f"{word} accurate on the {task} in {(verdicts == word).sum()} of {len(verdicts)} cells"
            for word in ("more", "less")
            if (verdicts == word).any()
        ]
    lines.append(
        f"- **{way}**: {'; '.join(words) or 'no difference from all layers that is decided'}."
    )
if lines:
    display(Markdown("\n".join(lines)))

# %% [markdown]
# Networks and training sets are small. The strength of a pull and the rank of LoRA were set beforehand: other
# values may do better. Of large language models it is said that with LoRA they learn less and
# forget less {cite}`biderman2024`; those are far larger than the networks here.
#
# Next: [what to do with it](16_what_to_do).
#
# ## Learning rates

# %% tags=["hide-input"]
if cells:
    rates = {}
    for cell, ways in cells.items():
        for way, r in ways.items():
            rate = r.header["rates"]["finetuned"]
            tried = ", ".join(map(tables.plain, sorted(map(float, rate["tried"]))))
            rates[cell, way] = {
                "taken": tables.plain(rate["chosen"]), "tried": tried or "set beforehand"
            }  # fmt: skip
    display(pd.DataFrame.from_dict(rates, orient="index"))

# %% [markdown]
# ## Where these numbers come from

# %% tags=["hide-cell"]
if cells:
    display(tables.provenance(plain).set_axis([*plain]))

# %% [markdown]
# To compute them again, with a folder of data as [](../data) describes it:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/ways.yml \
#         --record notebooks/recorded/ways
