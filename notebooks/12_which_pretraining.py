# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Supervised, contrastive or adversarial: which pre-training to take."
# ---

# %% [markdown]
# # Which pre-training?
#
# **Key points**
#
# - One network, the same pictures of CIFAR-10, and three things to learn from them: to name them
#   (*supervised*), to recognise a picture among others after it was cropped and mirrored
#   (*contrastive*, without labels), and to name adversarial pictures (*adversarial*).
# - Each is fine-tuned on the same small tasks in several {term}`runs <run>`. The page says in which it
#   helps, and where the knowledge of fine-tuned runs comes from (its {term}`origins`).
# - Contrastive and adversarial are each compared with supervised: accuracy, {term}`similarity`, origins,
#   all on the same test samples. A difference that cannot be told from 0 is *undecided*.
# - Pre-training is a run too: supervised pre-training is done several times, and the page says how much of
#   what probes and fine-tuned networks know comes back.
#
# *Needs: [Train it twice](02_train_it_twice), [How much data](10_how_much_data).*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/pretraining"  # records that differ in task and kind
again = "recorded/pretraining_again"  # one kind, pre-trained several times
paper = "recorded/paper"  # cells of the paper's question
paper_again = "recorded/again"  # some of them, computed a second time

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.book import begin, by, recorded, study_figures, tables
from pi_lib.reliability import order_groups
from pi_lib.statistics import Estimate
from pi_lib.study import comparisons, findings
from pi_lib.study.cell import title_of
from pi_lib.training.objectives import OBJECTIVES

begin(profile)

# %% tags=["hide-input"]
kinds = [*OBJECTIVES]


def task_and_kind(r):
    return title_of(r.header["task"]), kinds.index(r.header["pretraining"])


runs = {}
records = by(recorded(record), task_and_kind)
records = {(task, kinds[at]): r for (task, at), r in records.items()}
for (task, kind), r in records.items():
    runs[f"{kind} → {task}"] = findings.Runs(r)

# %% [markdown]
# ## The three
#
# *Supervised* is cross-entropy. *Contrastive* is SimCLR {cite}`chen2020` on the encoder's own features,
# without a projection head. *Adversarial* is cross-entropy on the worst picture that one gradient step
# finds within 4/255 of each pixel {cite}`wong2020`. Pictures, network, epochs and optimiser are the same;
# only the loss differs (`pi_lib.training.objectives`).

# %% tags=["hide-input"]
if records:
    first_task = next(iter(records))[0]
    by_kind = {kind: r for (task, kind), r in records.items() if task == first_task}
    same, table = tables.alike(tables.pretraining(by_kind).drop(columns="kind"))
    display(Markdown(f"Pre-training ({same}):"))
    display(table)
    same, table = tables.alike(tables.settings(records).set_axis([*runs]))
    display(
        Markdown(
            f"Fine-tuning and training from scratch ({same}). {tables.guessing(records.values())}"
        )
    )
    display(table)

# %% [markdown]
# Training from scratch does not depend on the kind. Where its accuracies differ, the cells were computed
# on different machines (see the end of the page): differences in rounding grow during training, as far as
# runs differ from each other, and this may be as much as a gain. So kinds are compared by their fine-tuned
# runs further down, not by which of them helps.
#
# ## Does it help?

# %% mystnb={"figure": {"name": "fig-kinds-of-pretraining", "caption": "Over kinds and tasks, pre-training {glue:text}`kinds_helps`. Left: where what fine-tuned runs reproducibly know comes from. Right: gain in accuracy of fine-tuning over training from scratch, with 95 % intervals."}, "image": {"alt": "A stacked bar for each kind of pre-training and task, split into pre-training alone, both, scratch alone and neither; beside it a dot with the gain in accuracy."}}
if runs:
    gain = {name: cell.record.gain() for name, cell in runs.items()}
    figure = study_figures.origins(findings.origins_table(runs), gain)

# %% tags=["hide-input"]
gains = comparisons.gains(runs)
glue("kinds_helps", tables.in_counts(gains), display=False)
if runs:
    display(Markdown(f"Pre-training, by kind and task: {tables.in_words(gains)}."))
    display(tables.judged(gains, tested="gain in accuracy over scratch"))

# %% [markdown]
# Pre-training *helps*, or *hurts*, if the 95 % interval of the gain lies on one side of 0 and its p,
# corrected for the number of rows of the table (Holm), is below 0.05. If not, it is *undecided*.
# Differences below are judged in the same way, each quantity for itself. Of the shares in the figure, all
# but *neither* are 0 by chance.
#
# ## Against supervised pre-training

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-against-supervised", "caption": "Against supervised pre-training, the accuracy of fine-tuned runs {glue:text}`against_accuracy` comparisons, their similarity with the probe {glue:text}`against_similarity`, and the share from pre-training alone {glue:text}`against_origins`. Whiskers: 95 % intervals, paired by test sample. What is not measurable is left out."}, "image": {"alt": "Three panels on one scale, in each a dot with whiskers for contrastive and adversarial pre-training on each task, around a line at zero."}}
pairs = {
    f"{kind} → {task}": (runs[f"{kind} → {task}"], runs[f"supervised → {task}"])
    for task, kind in records
    if kind != "supervised" and (task, "supervised") in records
}
compared = comparisons.contrasts(pairs)
SHOWN = [("accuracy", "finetuned"), ("similarity", "probe"), ("origins", "pretraining")]
for quantity, of in SHOWN:
    part = compared[(compared["quantity"] == quantity) & (compared["of"] == of)]
    glue(f"against_{quantity}", tables.in_counts(part), display=False)
if pairs:
    rows = {
        name: {
            tables.QUANTITIES[row.quantity, row.of]: row.tested
            for row in part.itertuples()
            if (row.quantity, row.of) in SHOWN
        }
        for name, part in compared.groupby("cell", sort=False)
    }
    figure = study_figures.differences(rows, "minus supervised pre-training")

# %% tags=["hide-input"]
lines = [
    f"- {tables.QUANTITIES[key]}: {tables.in_words(part)}."
    for key, part in compared.groupby(["quantity", "of"], sort=False)
]
if lines:
    display(Markdown("Compared with supervised pre-training:\n\n" + "\n".join(lines)))

# %% [markdown]
# The numbers behind it:

# %% tags=["hide-cell"]
if pairs:
    display(tables.judged(compared, tested="minus supervised"))

# %% [markdown]
# ## The same pre-training again
#
# A pre-training is a run too: another one of the same kind starts from other random weights and sees other
# batches. Would it lead to the same? For several sources and tasks, one small network was pre-trained several
# times on the same pictures, and fine-tuned several times from each; and some cells of the page
# [Findings](06_findings) were computed twice, pre-training included (with learning rates chosen anew). The
# sources go from a few other pictures (Flowers) to the classes next to the task's (Fashion-MNIST, odd and even).
# Two shares say how much comes back under *another* pre-training:
#
# - of all that a linear probe knows: $C_{PP} / V_P$, with products between probes of different pre-trainings
#   (where probes were trained under two heads, over what these agree on);
# - of what fine-tuned runs from the same weights reproducibly know: products between runs from different
#   weights, over those between runs from the same weights.
#
# Both are 1 if all comes back, and 0 by chance.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-pretraining-again", "caption": "Of what a linear probe knows, {glue:text}`again_probe` comes back under another pre-training; of what fine-tuned runs from the same weights reproducibly know, {glue:text}`again_finetuned`. Whiskers: 95 % intervals over samples."}, "image": {"alt": "For each cell two marks on a line, one for linear probes and one for fine-tuned runs."}}
cells = comparisons.by_pretraining(recorded(again).values())
cells |= comparisons.by_pretraining([*recorded(paper).values(), *recorded(paper_again).values()])
across = {name: comparisons.Pretrainings(x) for name, x in cells.items()}
found = {name: x.comes_back() for name, x in across.items()}
arms = {"linear probe": "probe", "fine-tuned runs": "finetuned"}
for arm in arms.values():
    shares = [comes_back[arm].value for comes_back in found.values()]
    glue(f"again_{arm}", tables.spans(shares) if shares else "an unknown share", display=False)
if found:
    shares = {
        name: {kind: comes_back[arm] for kind, arm in arms.items()}
        for name, comes_back in found.items()
    }
    figure = study_figures.shares(shares, "share that comes back under another pre-training")

# %% tags=["hide-input"]
differences = findings.judged({name: x["difference"] for name, x in found.items()})
if found:
    display(
        Markdown(
            "That more comes back of what fine-tuned runs know than of what a probe knows is "
            f"{findings.in_words(differences)}."
        )
    )

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-pretraining-again-orders", "caption": "Of a probe, {glue:text}`again_order1` of order 1 comes back under another pre-training, and {glue:text}`again_order3` of order 3. The same shares by order. Whiskers: 95 % intervals over samples. Left out: where an interval is wider than 1."}, "image": {"alt": "A panel per cell with two marks for each order, one for linear probes and one for fine-tuned runs."}}
rows = [
    {"panel": name, "name": kind, "orders": order} | vars(comes_back[arm])
    for name, x in across.items()
    for order, orders in order_groups(x.n).items()
    if order not in ("1-3", "all")
    for comes_back in [x.comes_back(orders)]
    for kind, arm in arms.items()
    if comes_back[arm].measurable and comes_back[arm].high - comes_back[arm].low < 1
]
for order in ("1", "3"):
    shares = [r["value"] for r in rows if (r["orders"], r["name"]) == (order, "linear probe")]
    said = tables.spans(max(0, x) for x in shares) if shares else "an unknown share"
    glue(f"again_order{order}", said, display=False)
if rows:
    figure = study_figures.by_order(pd.DataFrame(rows), "share that comes back")

# %% [markdown]
# So a part of what a single probe knows is the chance of its pre-training. Where fine-tuned runs have less of
# it, it makes the probe less like them. Elsewhere in this book, where there is one pre-training, that part
# counts as if it were knowledge, and the share that the probe explains is too small. The figure shows both: the probe
# of one pre-training, and what the probes of all pre-trainings have in common, held against what all
# fine-tuned runs have in common.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-origins-again", "caption": "The probe of one pre-training explains {glue:text}`again_one` of what fine-tuned runs know; what probes of several have in common explains {glue:text}`again_common` of what all fine-tuned runs have in common. *1 of* so many pre-trainings; *all*: what they have in common. Left: where what fine-tuned runs reproducibly know comes from. Right: gain in accuracy of fine-tuning over training from scratch."}, "image": {"alt": "Two stacked bars for each cell, for one pre-training and for what is common to all, split into pre-training alone, both, scratch alone and neither; beside it a dot with the gain in accuracy."}}
parts, gain = [], {}
for name, several in cells.items():
    one, common = (f"{name}: {which} {len(several)}" for which in ("1 of", "all"))
    parts.append(findings.origins_table({one: several[0]}))
    parts.append(across[name].origins().to_frame().assign(cell=common))
    gain |= {one: several[0].record.gain(), common: Estimate.unmeasurable("it is no network")}
probes = {"one": [several[0].origins() for several in cells.values()]}
probes["common"] = [x.origins() for x in across.values()]
for key, origins in probes.items():
    explained = [max(0, x.explained) for x in origins if x.measurable]
    said = tables.spans(explained) if explained else "an unknown share"
    glue(f"again_{key}", said, display=False)
if parts:
    parts = pd.concat(parts, ignore_index=True)
    figure = study_figures.origins(parts, gain)

# %% tags=["hide-cell"]
if found:
    display(tables.estimates(parts, index="cell", columns="part"))

# %% [markdown]
# ### The claims, over several pre-trainings
#
# On the page [Findings](06_findings) claims are judged with the probe of one pre-training. Do they still hold
# over several?
#
# - *Preserved* and *new* then compare what all probes have in common with what all fine-tuned runs have in
#   common. (*Much is learned anew* rests on the same number as *only a small part is preserved*, and always has
#   the same verdict.)
# - *Hard to learn from scratch* asks how much of the part that a probe and a fine-tuned run have in common is
#   found in a second fine-tuned run, and how much in a run from scratch. But the chance of a pre-training is in
#   both runs from its weights, and in no other. So here the second run starts from *another* pre-training.

# %% tags=["hide-input"]
ends = [c for c in findings.CLAIMS if not c.over_time and c.name != "much is learned anew"]
judged = {
    "of one pre-training": findings.tested({name: x[0] for name, x in cells.items()}, ends),
    "over several": findings.tested(across, ends),
}
counts = {
    which: {claim: tables.in_counts(rows) for claim, rows in frame.groupby("claim", sort=False)}
    for which, frame in judged.items()
}
pd.DataFrame(counts)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-claims-again", "caption": "Over several pre-trainings, *only a small part is preserved* {glue:text}`again_small`, and *what is preserved is hard to learn from scratch* {glue:text}`again_hard`. The verdict on claims (columns) in each cell (rows). p is corrected for the number of cells."}, "image": {"alt": "A grid of coloured squares with the words confirmed, contradicted, undecided or not measurable."}}
for key, claim in {"small": findings.CLAIMS[0], "hard": findings.CLAIMS[4]}.items():
    said = counts["over several"].get(claim.name, "is not measured")
    glue(f"again_{key}", said, display=False)
figure = study_figures.verdicts(judged["over several"]) if cells else None

# %% tags=["hide-cell"]
for claim in ends if cells else ():
    display(Markdown(f"**{claim.name[:1].upper()}{claim.name[1:]}**: {claim.number}"))
    columns = {
        which: frame[frame["claim"] == claim.name].set_index("cell")["tested"].map(tables.said)
        for which, frame in judged.items()
    }
    display(pd.DataFrame(columns).rename_axis(None))

# %% [markdown]
# ## Which to take


# %% tags=["hide-input"]
def how_good(kind):
    """How often a kind is better than none, and than supervised."""
    names = [name for name in runs if name.startswith(f"{kind} → ")]
    helps = tables.in_counts(gains[gains["cell"].isin(names)])
    accuracy = compared[(compared["quantity"] == "accuracy") & compared["cell"].isin(names)]
    against = f"; against supervised, its accuracy {tables.in_counts(accuracy)}"
    return f"- *{kind}*: against scratch, it {helps} tasks{against * (kind != 'supervised')}."


if runs:
    display(Markdown("\n".join(how_good(kind) for kind in dict.fromkeys(k for _, k in records))))

# %% [markdown]
# ## What this rests on
#
# A small network, few epochs of pre-training, and one pre-training of each kind, but of supervised: how far
# two of the same kind may lie apart is shown above for that kind alone. Contrastive pre-training is known to need far more epochs than
# supervised, so it could reach higher accuracies than here. Scratch runs have as many steps as fine-tuned
# runs; trained longer, they may come closer. The intervals are over test samples, for the runs that there
# are; other runs may differ by more.
#
# Weights of your own, such as DINO's for a vision transformer, are read from a folder by
# `backbones.build("vit-small", ...)`, as [](../data) says, and go through the same study. To compute the
# cells again:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/pretraining.yml \
#         --record notebooks/recorded/pretraining
#
# So far the question was what fine-tuning takes from pre-training. Next: is what it does not take good for
# anything? [What is discarded knowledge good for?](13_discarded_knowledge)
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
if records:
    display(tables.provenance(records))
