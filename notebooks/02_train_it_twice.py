# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "How much of a network's interactions come back when it is trained a second time."
# ---

# %% [markdown]
# # Train it twice
#
# **Key points**
#
# - Two fine-tuning runs that start from the same weights, and differ only in their new head, the order
#   of their batches and dropout, do not come to the same {term}`interactions <interaction>`. What a
#   single run shows is partly the run's own noise.
# - The {term}`reliability` says how much of a run's interactions would come back in another run: 1 is
#   all, 0 is nothing.
# - {term}`Harsanyi dividends <Harsanyi dividend>` of many players amplify noise.
#   {term}`Walsh coefficients <Walsh coefficient>` describe the same output without doing so. They are the
#   more reliable in {glue:text}`twice_better` {term}`cells <cell>`, and conclusions in this book rest on
#   them.
#
# *Needs: [What an interaction is](01_what_is_an_interaction).*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/paper"  # folder of the recorded cells

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import begin, study_figures, tables
from pi_lib.study import findings

begin(profile)
records = study.read_all(record)

# %% [markdown]
# ## The same network, twice
#
# We know of no publication on interactions of trained networks that says what a second training would
# have shown. Here, in each {term}`cell` (a pre-trained network and a new task), the network was fine-tuned
# {glue:text}`twice_runs` times. All {term}`runs <run>` see the same training samples, and all are asked
# about the same test samples with the same players. They differ in the random weights of the new head, in
# the order of the batches, and in dropout where a network has it: in what nobody chooses.

# %% tags=["hide-input"]
accuracies = {
    r.title: [x for key, x in r.header["accuracy"].items() if key.startswith("finetuned")]
    for r in records.values()
}
counts = [r.count("finetuned") for r in records.values()]
glue("twice_runs", tables.spans(counts, "d"), display=False)
apart = max(max(x) - min(x) for x in accuracies.values())
glue("twice_apart", f"{apart:.2f}", display=False)
pd.DataFrame(
    {
        r.title: {
            "fine-tuned runs, accuracy": ", ".join(f"{x:.2f}" for x in accuracies[r.title]),
            "samples for interactions": len(r.header["labels"]),
            "players": r.runs("probe")[0].n,
        }
        for r in records.values()
    }
).T

# %% [markdown]
# Within a cell, accuracies lie at most {glue:text}`twice_apart` apart. Are the interactions as much alike?

# %% mystnb={"figure": {"name": "fig-twice", "caption": "The correlation of two runs is {glue:text}`twice_left` in Harsanyi dividends, and {glue:text}`twice_right` in Walsh coefficients. Each dot is one interaction of one sample: its value in a first and in a second fine-tuned run of the cell in which most comes back. If runs agreed, all dots would lie on the line. Left: Harsanyi dividends; right: Walsh coefficients of the same two networks; each in units of its own standard deviation. Dots beyond four of them lie on the border."}, "image": {"alt": "Two clouds of dots, a first run against a second, with the diagonal on which equal runs would lie: Harsanyi dividends on the left, Walsh coefficients on the right."}}
shown = max(records.values(), key=lambda r: pi.reliability(r.runs("finetuned")).value)
first, second, *others = shown.runs("finetuned")
figure = study_figures.first_against_second(first, second)
for key, axis in zip(("twice_left", "twice_right"), figure.axes, strict=True):
    glue(key, axis.get_title().split()[-1], display=False)

# %% [markdown]
# ## How much comes back
#
# Write $I^r(x, S)$ for the interaction of the set $S$ in run $r$ on the sample $x$, each run divided by
# its mean $|v(N) - v(\emptyset)|$, where $N$ is the set of all players. Products of *different* runs
# average their noise away:
#
# $$C = \operatorname{mean}_{x,\; r \neq r'} \sum_S I^r(x, S)\, I^{r'}(x, S), \qquad
#   V = \operatorname{mean}_{x,\; r} \sum_S I^r(x, S)^2, \qquad
#   \text{reliability} = C / V.$$
#
# Shuffled interactions have a reliability of 0, and equal runs one of 1. The reliability is computed for
# all interactions, or for those of one {term}`order`.

# %% tags=["hide-input"]
frames = [
    pi.yardstick({"finetuned": r.runs("finetuned")}).assign(cell=r.title) for r in records.values()
]
reliability = pd.concat(frames)
by_order = reliability[reliability["orders"].isin(["1", "2", "3", "4+"])]

# %% mystnb={"figure": {"name": "fig-reliability", "caption": "Over all orders, the reliability of fine-tuned runs is {glue:text}`twice_harsanyi` in Harsanyi dividends, {glue:text}`twice_walsh` in Walsh coefficients. Reliability by order, the number of players of an interaction, a panel per cell. 0 by chance; 1 if all came back. Whiskers: 95 % intervals over samples."}, "image": {"alt": "A panel per cell with two marks for each order, one of Walsh coefficients and one of Harsanyi dividends, with whiskers."}}
names = {"walsh": "Walsh coefficients", "harsanyi": "Harsanyi dividends"}
shown = by_order.assign(panel=by_order["cell"], name=by_order["basis"].map(names))
figure = study_figures.by_order(shown, "reliability of fine-tuned runs")

# %% tags=["hide-input"]
all_orders = reliability[reliability["orders"] == "all"]
all_orders = all_orders.pivot(index="cell", columns="basis", values="value")
better = (all_orders["walsh"] > all_orders["harsanyi"]).sum()
glue("twice_better", f"{better} of {len(all_orders)}", display=False)
for basis, values in all_orders.items():
    glue(f"twice_{basis}", tables.spans(values, ".2f"), display=False)
shares = [findings.Runs(r).preserved.second_run.value for r in records.values()]
pairs = [r.runs("finetuned")[:2] for r in records.values()]
chance = [pi.compare(second, first).preserved_share().chance.value for first, second in pairs]
display(
    Markdown(
        "Over all orders, fine-tuned runs have a reliability of "
        f"{tables.spans(all_orders['harsanyi'], '.2f')} in Harsanyi dividends, and of "
        f"{tables.spans(all_orders['walsh'], '.2f')} in Walsh coefficients. In the paper's own "
        f"measure, the share of strength that is preserved, one run has {tables.spans(shares)} of "
        f"another; shuffled interactions would have {tables.spans(chance)}."
    )
)

# %% [markdown]
# ## Why dividends lose it
#
# A dividend of order $m$ adds up $2^m$ outputs with alternating signs,
# $I(S) = \sum_{T \subseteq S} (-1)^{|S| - |T|} v(T)$. If each output differs between two runs by
# noise of standard deviation $s$, the dividend differs by $2^{m/2} s$: for ten players, up to 32
# times as much. Most sets have many players, so noise weighs heavily in a sum over all orders.
#
# The Walsh coefficients of the same outputs are
#
# $$w(S) = 2^{-n} \sum_{T} (-1)^{|S| - |S \cap T|}\, v(T), \qquad S \neq \emptyset,$$
#
# the effect of the set $S$ averaged over everything else that may be visible. They are orthonormal:
# $\sum_S w(S)^2$ is the variance of the output over all coalitions, and noise of single outputs is
# not amplified. They contain the same information: $w(S) = \sum_{T \supseteq S} 2^{-|T|} I(T)$. Up to a
# factor of $2^{|S|}$ they are the *Banzhaf interaction index*; for single players that is the
# {term}`Banzhaf value`, which ranks players more robustly under noise than the other values of its family
# {cite}`wang2023`. Another difference matters too: dividends of low order look only at inputs of which
# nearly everything is hidden, far from any data.
#
# ## What it means for every later number
#
# - A share of interactions that two networks have in common says nothing unless one knows what
#   {term}`chance` gives, and what a {term}`second run` of the same network gives. From here on both stand
#   beside every share.
# - Two networks are compared by the {term}`similarity` of what is reproducible in them,
#   $\rho_{XY} = C_{XY} / \sqrt{C_{XX} C_{YY}}$, which is 0 by chance and 1 for the same knowledge,
#   however noisy single runs are (the correction for attenuation {cite}`spearman1904`).
# - Where runs of the same {term}`arm` may have nothing in common, there is nothing to compare. The book
#   then says *not measurable*.
# - What a single run shows of order 4 and beyond, its "complex knowledge", asks for the most care:

# %% tags=["hide-input"]
measured = []
for basis, title in names.items():
    high = by_order[(by_order["orders"] == "4+") & (by_order["basis"] == basis)]
    measured.append(
        f"{tables.spans(high['value'], 'z.2f')} in {title} (its interval lies above 0 in "
        f"{(high['low'] > 0).sum()} of {len(high)} cells)"
    )
display(Markdown(f"From order 4 on, the reliability is {' and '.join(measured)}."))

# %% [markdown]
# ## Exercises
#
# 1. Shuffle the interactions of a run within each order. What becomes of its strength by order, and
#    of its reliability with another run?
# 2. Runs of an arm have a reliability of 0.25. What similarity would two *single* runs show, without the
#    correction, although they know the same?
#
# :::{dropdown} Answers
# 1. The strength by order stays exactly as it was; the reliability falls to 0. Strength by order
#    alone therefore cannot show what two networks share.
# 2. $C_{XY} / \sqrt{V_X V_Y} = 0.25$: a reader would take the same knowledge for a quarter of it.
# :::
#
# Next: [what is preserved](03_what_is_preserved) of pre-training, against chance and a second run.
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
tables.provenance(records)
