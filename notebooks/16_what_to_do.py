# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Advice for transfer learning, each line with its evidence and its limits."
# ---

# %% [markdown]
# # What to do with it
#
# **Key points**
#
# - What a practitioner may take from all recorded {term}`cells <cell>`, in a few lines: when to start from
#   pre-trained weights, whether a {term}`linear probe` is enough, which way to fine-tune, from which source.
# - Each line rests on claims that are tested in cells. What it says is chosen by the verdicts, and where
#   a claim is undecided, it says so.
# - Whether {term}`interactions <interaction>` themselves tell what will help is asked last.
#
# *Needs: [Findings](06_findings) for the verdicts, and the chapters before this one, whose records it
# reads.*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
records = "recorded"  # folder of the folders of recorded cells

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.book import begin, recorded, study_figures, tables
from pi_lib.study import comparisons, findings
from pi_lib.study.advice import advice

begin(profile)

# %%
names = "paper data_size domains domains_text pretraining discarding other_tasks ways".split()
folders = {name: recorded(f"{records}/{name}") for name in names}
lines = advice(folders)

# %% [markdown]
# ## The lines
#
# A claim is *confirmed* in a cell where the 95 % interval of its number lies above 0 and its p,
# corrected for how many cells are looked at together (Holm), is below 0.05; *contradicted* where it lies
# below, with such a p; *undecided* otherwise. A line recommends something where its claim is confirmed in
# more than half of the cells and contradicted in none.
#
# Differences of accuracies are paired by test sample where a record says which samples were right. Cells that
# share a network or data are no independent experiments: a majority of them is not a majority of all cells
# that there could be.

# %% tags=["hide-input"]
for number, line in enumerate(lines, 1):
    display(
        Markdown(
            f"**{number}. {line.question}** {line.sentence}\n\n"
            f"- *Evidence.* {line.evidence}\n- *Limits.* {line.limits[:1].upper()}{line.limits[1:]}"
        )
    )

# %% [markdown]
# ## What they rest on

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-advice", "caption": "Of all lines together, a claim {glue:text}`advice_cells` cells. A row for each claim, with the number of its line; in it a dot with its 95 % interval for each cell, in the colour of the verdict, and on the right how often each verdict fell. Right of 0 the claim holds. What is not measurable has no dot."}, "image": {"alt": "Two panels, differences in accuracy above and rank correlations below; in each a row of dots with whiskers for every claim, beside a line at 0, and counts of verdicts on the right."}}
if lines:
    figure = study_figures.effects(lines)

# %% [markdown]
# The numbers behind the figure, cell by cell:

# %% tags=["hide-cell"]
cells = [claim.frame for line in lines for claim in line.claims]
glue(
    "advice_cells",
    tables.in_counts(pd.concat(cells)) if cells else "is not measured",
    display=False,
)
if lines:
    with pd.option_context("display.max_rows", None):
        display(tables.effects(lines))

# %% [markdown]
# ## Are interactions a guide?
#
# If pre-training helped by what fine-tuned networks keep of it, cells in which they stay more similar to the
# linear probe should gain more accuracy over scratch. Over all cells of these records:

# %% tags=["hide-input"]
runs = {name: findings.Runs(r) for folder in folders.values() for name, r in folder.items()}
measured = comparisons.quantities(runs)
key = measured["quantity"] + " of " + measured["of"]
kept = measured[key.isin(["similarity of probe", "origins of pretraining"])]
gains = {name: cell.record.gain().value for name, cell in runs.items()}
trends = comparisons.trends(kept, gains)
NAMES = {
    "similarity": "the similarity of fine-tuned runs with the linear probe",
    "origins": "the share of what they reproducibly know that pre-training alone explains",
}
SAYS = {
    "rises": "cells that gained more over scratch have more of it",
    "falls": "cells that gained more over scratch have less of it",
    "undecided": "whether it goes with the gain over scratch is undecided",
}
answers = [
    f"- {NAMES[row.quantity]}: {SAYS.get(row.verdict, row.verdict)} (rank correlation "
    f"{row.tested}, {row.cells} cells)."
    for row in trends.itertuples()
]
display(Markdown("\n".join(answers)))

# %% [markdown]
# Cells that share a network and data are not independent experiments, and the intervals take them as if
# they were: they are rather too narrow. What pre-training *alone* explains leaves out what scratch explains
# too. Where scratch learns little, little is left out, and there the gain is large: the two may go together
# for this reason alone. A similarity describes two sets of networks on a few inputs, with the choices that
# [](07_choices) lists. It is no score of a network.
#
# ## What this rests on
#
# Networks, tasks and sizes of training sets are those that each line names: smaller than what is common
# in practice. A recommendation that holds in most of these cells is a good first try elsewhere, and no
# more than that. How each record was made stands at the end of the chapter that it belongs to.
#
# Next: the same on [your own image model](17_your_image_model), [your own text model](18_your_text_model), or
# the whole question, with the same verdicts, on [your own transfer](21_your_own_transfer).
