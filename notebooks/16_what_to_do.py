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
# - What a practitioner may take from all recorded cells, in at most seven lines: when to start from
#   pre-trained weights, whether a linear probe is enough, which way to fine-tune, from which source.
# - Each line rests on a claim that is tested in cells. What it says is chosen by the verdicts, and where
#   the claim is undecided, it says so.
# - Whether interactions themselves tell what will help is asked last.
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
names = "paper data_size domains domains_text pretraining discarding other_tasks ways".split()
folders = {name: recorded(f"{records}/{name}") for name in names}
lines = advice(folders)

# %% [markdown]
# ## The lines
#
# A claim is *confirmed* in a cell where the 95 % interval of its number lies above 0 and its p,
# corrected for how many cells are looked at together, is below 0.05; *contradicted* where it lies
# below; *undecided* otherwise. A line recommends something where its claim is confirmed in more than half of
# the cells and contradicted in none. Test samples of a cell are the same for all its runs, and differences of
# accuracies are paired where a record says which of them were right. Cells that share a network or data are
# no independent experiments: a majority of them is not a majority of all cells that there could be.

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

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-advice", "caption": "Of all lines together, a claim {glue:text}`advice_cells` cells. The effect behind each line of advice in every cell, a dot with its 95 % interval, in the colour of the verdict; numbers are those of the lines. Right of 0 the claim of the line holds."}, "image": {"alt": "Two panels, differences in accuracy above and rank correlations below, each with blocks of dots and whiskers beside a line at 0."}}
if lines:
    figure = study_figures.effects(lines)

# %% [markdown]
# The numbers behind the figure:

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
runs = {name: findings.Runs(one) for folder in folders.values() for name, one in folder.items()}
measured = comparisons.quantities(runs)
of = measured["quantity"] + " of " + measured["of"]
kept = measured[of.isin(["similarity of probe", "origins of pretraining"])]
told = comparisons.trends(kept, {name: one.record.gain().value for name, one in runs.items()})
NAMES = {
    "similarity": "the similarity of fine-tuned runs with the linear probe",
    "origins": "the share of what they reproducibly know that pre-training alone explains",
}
SAYS = {
    "rises": "cells that gained more over scratch have more of it",
    "falls": "cells that gained more over scratch have less of it",
    "undecided": "whether it goes with the gain over scratch is undecided",
}
said = [
    f"- {NAMES[row.quantity]}: {SAYS.get(row.verdict, row.verdict)} (rank correlation {row.tested}, "
    f"{row.cells} cells)."
    for row in told.itertuples()
]
display(Markdown("\n".join(said)))

# %% [markdown]
# Cells that share a network and data are not independent experiments, and the intervals take them as if
# they were: they are rather too narrow. What pre-training *alone* explains leaves out what scratch explains
# too: little is left out where scratch learns little, and there the gain is large. A similarity describes two sets of networks on a few inputs, with
# the choices that [](07_choices) lists. It is no score of a network.
#
# ## What this rests on
#
# Networks, tasks and sizes of training sets are those that each line names: smaller than what is common
# in practice. A recommendation that holds in most of these cells is a good first try elsewhere, and no
# more than that. How each record was made stands at the end of the chapter that it belongs to.
#
# Next: the same on [your own image model](17_your_image_model), [your own text model](18_your_text_model), or
# the whole question, with the same verdicts, on [your own transfer](21_your_own_transfer).
