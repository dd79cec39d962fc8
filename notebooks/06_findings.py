# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Findings against the paper
#
# **Key points**
#
# - Each claim of the paper becomes one number and a region in which the claim holds. Where the
#   number's 95 % interval lies inside, the claim is *confirmed*; outside, *contradicted*; across a
#   border, *undecided*.
# - One row per claim, one column per {term}`cell`: a backbone, what it was pre-trained on, and a
#   downstream task.
# - The numbers were recorded beforehand, by the command at the foot of the page, because they take
#   hours; the page only draws them.
#
# *Needs: [What is preserved](03_what_is_preserved), [What scratch learns](04_what_scratch_learns)
# and [How directly](05_how_directly) for what is measured. Five minutes to read, seconds to run.*

# %% tags=["parameters"]
profile = "quick"
record = "recorded/paper.parquet"

# %%
import pandas as pd
from IPython.display import HTML, Markdown, display

from pi_lib.book import figures

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.study import findings, grid

figures.style()
table, about = grid.recorded(record)
claims = findings.findings(table)

# %% tags=["hide-input"]
seeds = table.groupby(findings.CELL)["seed"].nunique()
steps = [step for cell in about["cells"] for step in cell["steps"].values()]
unlike = "" if not about["missing"] else (
    f" Named in the grid but not computed when it was recorded: {'; '.join(about['missing'])}."
)  # fmt: skip


def span(numbers):
    """All of them in words: "3", or "2 to 3"."""
    ends = sorted({int(numbers.min()), int(numbers.max())})
    return " to ".join(map(str, ends))


display(
    Markdown(
        f"The record holds {len(seeds)} cells with {span(seeds)} seeds each, "
        f"{span(claims['samples'])} samples a cell over all "
        f"seeds, at the profile {', '.join(sorted({c['profile'] for c in about['cells']}))}, "
        f"computed on: {', '.join(sorted({s['device'] for s in steps}))}, "
        f"between {min(s['finished'] for s in steps)} and {max(s['finished'] for s in steps)}."
        f"{unlike}"
    )
)

# %% [markdown]
# ## The table

# %% tags=["hide-input"]
shown = claims.assign(
    shown=[
        f"<strong>{row.verdict}</strong><br>{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"
        for row in claims.itertuples()
    ]
).pivot(index="claim", columns="cell", values="shown")
shown = shown.loc[claims["claim"].unique(), claims["cell"].unique()]
for start in range(0, shown.shape[1], 3):
    display(HTML(shown.iloc[:, start : start + 3].to_html(escape=False)))

# %% mystnb={"figure": {"name": "fig-findings", "caption": "Every claim in every cell. Dots: all seeds together, with 95 % bootstrap intervals over samples; ticks: the range over seeds; grey: where the claim holds."}, "image": {"alt": "A panel per claim; in each a dot with an interval per cell, beside the region in which the claim holds."}}
figure = figures.findings(claims)

# %% tags=["hide-input"]
counts = claims.groupby("claim", sort=False)["verdict"].value_counts().unstack(fill_value=0)
lines = []
for claim, row in counts.iterrows():
    parts = [f"{row[v]} {v}" for v in findings.VERDICTS if row.get(v, 0)]
    lines.append(f"- *{claim}*: {', '.join(parts)} of {int(row.sum())} cells")
display(Markdown("In words:\n\n" + "\n".join(lines)))

# %% [markdown]
# ## Accuracy beside every share
#
# A share means little without knowing how good the models are. *Only scratch* is the part of the
# scratch model's strength that the fine-tuned model has not; *salient error* the part of the
# variance of $v$ over coalitions that the salient interactions of the fine-tuned model leave out.

# %% tags=["hide-input"]
numbers = findings.summary(table)
numbers.T.map(str)

# %% [markdown]
# ## Fine-tuned against scratch, sample by sample
#
# Each sample has an area under its similarity curve in both runs, so the comparison is paired:
# Wilcoxon's signed-rank test, two-sided.

# %% tags=["hide-input"]
tests = findings.paired_test(table).set_index("cell")
bound = 0.05 / len(tests)
display(tests.assign(p=tests["p"].map("{:.2g}".format)))
below = int((tests["p"] < bound).sum())
display(
    Markdown(f"{below} of {len(tests)} cells have p below {bound:.2g}, 0.05 over their number.")
)

# %% [markdown]
# ## Does preserving more go with doing better?
#
# Over cells: the preserved share against the fine-tuned accuracy and against the gain over scratch.
# Cells differ in task and backbone, so this is a description, not a cause.

# %% mystnb={"figure": {"name": "fig-over-cells", "caption": "Preserved share against fine-tuned accuracy and gain over scratch, a mark per cell, all seeds together; whiskers: 95 % intervals."}, "image": {"alt": "Two scatter plots with one mark per cell."}}
figure = figures.over_cells(numbers, "preserved", ["accuracy finetuned", "gain over scratch"])

# %% tags=["hide-input"]
lines = []
for row in findings.correlations(table).itertuples():
    number = (
        ""
        if pd.isna(row.rho)
        else f"rank correlation {row.rho:.2f} [{row.low:.2f}, {row.high:.2f}], "
    )
    lines.append(f"- {row.of}: {number}{row.cells} cells: **{row.verdict}**")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Learning rates
#
# Chosen per phase by accuracy on a validation split, with seed 0, and kept for the other seeds.

# %% tags=["hide-input"]
tried = [
    {
        "cell": c["name"],
        "phase": figures.NAMES[one["phase"]],
        "rate: accuracy": f"{one['rate']:g}: {one['accuracy']:.2f}" + " *" * one["chosen"],
    }
    for c in about["cells"]
    for one in c["learning_rates"]
    if c["seed"] == about["cells"][0]["seed"]
]
columns = ["cell", "phase", "rate: accuracy"]
pd.DataFrame(tried, columns=columns).groupby(columns[:2], sort=False).agg(", ".join).unstack()

# %% [markdown]
# Validation accuracies; the star marks the chosen rate.
#
# ## Where these numbers come from

# %% tags=["hide-input"]
seconds = pd.DataFrame(
    {
        "cell": c["name"],
        "step": name.split()[0],
        "minutes": step["seconds"] / 60,
    }
    for c in about["cells"]
    for name, step in c["steps"].items()
)
seconds.pivot_table(
    index="cell", columns="step", values="minutes", aggfunc="sum", sort=False
).round(1)

# %% [markdown]
# Minutes over all seeds, as measured when each step was computed. To compute them again, with a
# folder of data as [](../data) describes it:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/paper.yml \
#         --record notebooks/recorded/paper
