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
#
# *Needs: [Train it twice](02_train_it_twice), [How much data](10_how_much_data).*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/pretraining"  # records that differ in task and kind

# %%
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.book import begin, by, recorded, study_figures, tables
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
# A small network, few epochs of pre-training, and one pre-training of each kind: another one of the
# same kind may differ as well. Contrastive pre-training is known to need far more epochs than
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
