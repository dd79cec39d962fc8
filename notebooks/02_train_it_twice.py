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
#   {term}`Walsh coefficients <Walsh coefficient>` describe the same output without doing so, and far more
#   of them come back. Conclusions in this book rest on them.
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
# Nobody who published interactions of trained networks says what a second training would have
# shown. Here each {term}`cell` (a pre-trained network and a new task) was fine-tuned three times. All
# runs see the same training samples, and all are asked about the same test samples with the same
# players. They differ in the random weights of the new head, in the order of the batches, and in
# dropout where a network has it: in what nobody chooses.

# %% tags=["hide-input"]
pd.DataFrame(
    {
        r.title: {
            "fine-tuned runs, accuracy": ", ".join(
                f"{value:.2f}"
                for key, value in r.header["accuracy"].items()
                if key.startswith("finetuned")
            ),
            "samples for interactions": len(r.header["labels"]),
            "players": r.runs("probe")[0].n,
        }
        for r in records.values()
    }
).T

# %% [markdown]
# The accuracies are nearly the same. Are the interactions?

# %% mystnb={"figure": {"name": "fig-twice", "caption": "Two runs agree far less in Harsanyi dividends (correlation {glue:text}`twice_left`) than in Walsh coefficients ({glue:text}`twice_right`). Each dot is one interaction of one sample: its value in a first and in a second fine-tuned run of the cell in which most comes back. If runs agreed, all dots would lie on the line. Left: Harsanyi dividends; right: Walsh coefficients of the same two networks; each in units of its own standard deviation. Dots beyond four of them lie on the border."}, "image": {"alt": "Two clouds of dots. The left cloud of Harsanyi dividends is nearly round; the right cloud of Walsh coefficients is drawn out along the diagonal."}}
shown = max(records.values(), key=lambda r: pi.reliability(r.runs("finetuned")).value)
figure = study_figures.first_against_second(*shown.runs("finetuned")[:2])
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
frames = []
for r in records.values():
    arms = {arm: r.runs(arm) for arm in ("finetuned", "scratch")}
    frames.append(pi.yardstick(arms).assign(cell=r.title))
table = pd.concat(frames)
reliability = table[table["quantity"] == "reliability"]
singles = reliability[reliability["orders"].isin(["1", "2", "3", "4+"])]
finetuned = singles[singles["first"] == "finetuned"]

# %% mystnb={"figure": {"name": "fig-reliability", "caption": "Over all orders, the reliability of fine-tuned runs is {glue:text}`twice_harsanyi` in Harsanyi dividends, {glue:text}`twice_walsh` in Walsh coefficients. Reliability by order, the number of players of an interaction, a panel per cell. 0 by chance; 1 if all came back. Whiskers: 95 % intervals over samples."}, "image": {"alt": "A panel per cell with two marks for each order. Reliability falls with the order; in most cells the marks of Walsh coefficients lie higher than those of Harsanyi dividends."}}
names = {"walsh": "Walsh coefficients", "harsanyi": "Harsanyi dividends"}
shown = finetuned.assign(panel=finetuned["cell"], name=finetuned["basis"].map(names))
figure = study_figures.by_order(shown, "reliability of fine-tuned runs")

# %% tags=["hide-input"]
whole = reliability[(reliability["first"] == "finetuned") & (reliability["orders"] == "all")]
ends = {b: (x["value"].min(), x["value"].max()) for b, x in whole.groupby("basis")}
for basis, (least, most) in ends.items():
    glue(f"twice_{basis}", f"{least:.2f} to {most:.2f}", display=False)
shares = [findings.Runs(r).preserved.second_run.value for r in records.values()]
chance = [
    pi.compare(*r.runs("finetuned")[1::-1]).preserved_share().chance for r in records.values()
]
display(
    Markdown(
        f"Over all orders, fine-tuned runs have a reliability of {ends['harsanyi'][0]:.2f} to "
        f"{ends['harsanyi'][1]:.2f} in Harsanyi dividends, and of {ends['walsh'][0]:.2f} to "
        f"{ends['walsh'][1]:.2f} in Walsh coefficients. In the paper's own measure, the share of "
        f"strength that is preserved, one run has {tables.spans(shares)} of another; shuffled "
        f"interactions would have {tables.spans(x.value for x in chance)}."
    )
)

# %% [markdown]
# ## Why dividends lose it
#
# A dividend of order $m$ adds up $2^m$ outputs with alternating signs,
# $I(S) = \sum_{T \subseteq S} (-1)^{|S| - |T|} v(T)$. If each output differs between two runs by
# noise of standard deviation $s$, the dividend differs by $2^{m/2} s$: for ten players, up to 32
# times as much. Most dividends are of high order, so a sum over all orders is mostly noise.
#
# The Walsh coefficients of the same outputs are
#
# $$w(S) = 2^{-n} \sum_{T} (-1)^{|S| - |S \cap T|}\, v(T), \qquad S \neq \emptyset,$$
#
# the effect of the set $S$ averaged over everything else that may be visible. They are orthonormal:
# $\sum_S w(S)^2$ is the variance of the output over all coalitions, and noise of single outputs is
# not amplified. They contain the same information: $w(S) = \sum_{T \supseteq S} 2^{-|T|} I(T)$ (up to a
# factor of $2^{|S|}$ the *Banzhaf interaction index*, which is known to be the most robust to noise
# {cite}`wang2023`). Another difference matters as much: dividends of low order look only at inputs of
# which nearly everything is hidden, far from any data.
#
# ## What it means for every later number
#
# - A share of interactions that two networks have in common says nothing unless one knows what
#   *chance* gives, and what a *second run* of the same network gives. From here on both stand beside
#   every share.
# - Two networks are compared by the {term}`similarity` of what is reproducible in them,
#   $\rho_{XY} = C_{XY} / \sqrt{C_{XX} C_{YY}}$, which is 0 by chance and 1 for the same knowledge,
#   however noisy single runs are (the correction for attenuation {cite}`spearman1904`).
# - Where runs of the same kind may have nothing in common, there is nothing to compare. The book then
#   says *not measurable*.
# - "Complex knowledge" of single runs, of order 4 and beyond, is mostly what would not come back.

# %% tags=["hide-input"]
high = finetuned[(finetuned["orders"] == "4+") & (finetuned["basis"] == "harsanyi")]
above = int((high["low"] > 0).sum())
display(
    Markdown(
        f"In {above} of {len(high)} cells the dividends of order 4 and beyond of fine-tuned runs have a "
        "reliability whose interval lies above 0."
    )
)

# %% [markdown]
# ## Exercises
#
# 1. Shuffle the interactions of a run within each order. What becomes of its strength by order, and
#    of its reliability with another run?
# 2. Two runs have a reliability of 0.25. What similarity would two *single* runs show, uncorrected,
#    although they know the same?
#
# :::{dropdown} Answers
# 1. The strength by order stays exactly as it was; the reliability falls to 0. Strength by order
#    alone therefore cannot show what two networks share.
# 2. $C_{XY} / \sqrt{V_X V_Y} = 0.25$: a reader would call equal knowledge "a quarter preserved".
# :::
#
# Next: [what is preserved](03_what_is_preserved) of pre-training, against chance and a second run.
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
tables.provenance(records)
