# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "AND and OR interactions, and their exact split as a convex problem, with a bound on its error."
# ---

# %% [markdown]
# # AND and OR
#
# **Key points**
#
# - An AND interaction acts when *all* of its players are shown, an {term}`OR interaction
#   <OR interaction>` as soon as *any* of them is. Either kind alone can write every output. With
#   both, the same output may need fewer terms: this page counts them.
# - Which terms then? The literature takes the split with the smallest sum of sizes, and looks for it by
#   gradient descent from a random start. The problem is convex: it has an exact answer, and ours comes
#   with a bound that says how near it is.
# - Some papers allow the split an error. How much sparser that makes it is measured here.
#
# *Needs: [What an interaction is](01_what_is_an_interaction).*

# %% tags=["parameters"]
profile = "quick"  # how much is computed: smoke, quick, reduced or full
noise = 0.04  # the allowed error: a share of |v(N) - v({})| by which a value may be missed

# %%
import pandas as pd
import torch
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import begin, figures, tables
from pi_lib.coalitions import label

begin(profile)

# %% [markdown]
# ## Three alarms
#
# A house has three alarms, and any one of them wakes you: $v(T) = 1$ as soon as $T$ is not empty.
# That is one OR interaction. As AND interactions it takes seven, of alternating sign: each alarm
# adds 1, each pair takes 1 back, and all three add 1 again.

# %%
alarms = torch.tensor([0.0] + [1.0] * 7, dtype=torch.float64)
split = pi.and_or_split(alarms)
terms = {"AND alone": pi.and_transform(alarms), "split, AND": split.i_and, "split, OR": split.i_or}
pd.DataFrame(terms, index=[label(s, "abc") for s in range(8)]).round(3) + 0.0

# %% [markdown]
# ## Why there is an exact answer
#
# Write $v = v_{and} + v_{or}$ and take each part into interactions of its own kind. Any part of $v$ will do
# as $v_{and}$; we take the one that minimises
#
# $$\sum_S |I_{and}(S)| + \sum_S |I_{or}(S)|.$$
#
# Both kinds of interactions depend linearly on the part that is chosen, so the sum of their sizes is
# convex: a local minimum is the minimum. And every convex problem of this kind has a *dual*, none of whose
# values lies above the minimum: each is a **bound**. An answer whose sum meets a bound is proven to be
# the best.
#
# Take two games at once: two of the alarms must ring together to call the neighbour, any one of the
# three wakes you. Between *all of it as AND* and *all of it as OR* lies a line of splits; the best
# lies off the line, at the dashed bound.

# %% mystnb={"figure": {"name": "fig-convex", "caption": "The best split lies off the line: its sum is {glue:text}`convex_best`, that of the best split on the line {glue:text}`convex_line`. Sum of the sizes of all interactions along the line from all AND to all OR, and the bound, which the split of pi_lib reaches."}, "image": {"alt": "Sum of sizes: a line falls from all AND to all OR and rises beyond both, everywhere above the dashed line of the bound."}}
game = alarms + pi.and_inverse(torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 0], dtype=torch.float64))
figure = figures.splits_on_a_line(game, pi.and_or_split(game))
sums_on_line = figure.axes[0].lines[0].get_ydata()
glue("convex_best", f"{pi.and_or_split(game).objective.item():.1f}", display=False)
glue("convex_line", f"{min(sums_on_line):.1f}", display=False)

# %% [markdown]
# ## Where a descent stops
#
# The literature's recipe descends by stochastic-gradient steps on this sum. Here it begins at two starts on
# the same game (the first image of [What an interaction is](01_what_is_an_interaction), under a fine-tuned
# network), and takes {glue:text}`descent_steps` steps from each. Beside it stands the solver, which has no
# random start. Of two sets of {glue:text}`descent_strongest` terms drawn at random,
# {glue:text}`descent_chance` would be in both, on average.

# %%
cells = study.offline_cells(profile)
records = dict(zip(cells, study.run_all(list(cells.values())), strict=True))
values = {name: record.runs("finetuned")[0].v for name, record in records.items()}


# %% tags=["hide-input"]
STEPS, STRONGEST = 10_000, 20


def descend(v, start, steps=STEPS):
    """The recipe: momentum 0.9, learning rate decayed one decade, from a small random start."""
    p = 0.1 * v.std() * torch.randn(len(v), generator=torch.Generator().manual_seed(start)).double()
    p.requires_grad_()
    optimiser = torch.optim.SGD([p], lr=1e-3 * v.std().item(), momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / steps))
    eye = torch.eye(len(v), dtype=torch.float64)
    to_and, to_or = pi.and_transform(eye)[:, 1:], pi.or_transform(eye)[:, 1:]
    for _ in range(steps):
        optimiser.zero_grad()
        both = torch.cat([(v / 2 + p) @ to_and, (v / 2 - p) @ to_or])
        both.abs().sum().backward()
        optimiser.step()
        schedule.step()
    return both.detach()


first = values["images"][0]
exact = pi.and_or_split(first)
answers = {f"descent, start {k}": descend(first, k) for k in (1, 2)}
answers["pi_lib"] = torch.cat([exact.i_and[1:], exact.i_or[1:]])
strongest = {name: set(x.abs().topk(STRONGEST).indices.tolist()) for name, x in answers.items()}
glue("descent_steps", f"{STEPS:,}", display=False)
glue("descent_strongest", STRONGEST, display=False)
glue("descent_chance", f"{STRONGEST**2 / len(answers['pi_lib']):.1f}", display=False)
pd.DataFrame(
    {
        name: {
            "sum of sizes": f"{x.abs().sum():.3f}",
            "over the bound": f"{100 * x.abs().sum() / exact.bound - 100:.2f} %",
            f"of its {STRONGEST} strongest, also in pi_lib's": (
                len(strongest[name] & strongest["pi_lib"]) if name != "pi_lib" else ""
            ),
            f"of its {STRONGEST} strongest, also in the other start's": (
                len(strongest["descent, start 1"] & strongest["descent, start 2"])
                if name != "pi_lib"
                else ""
            ),
        }
        for name, x in answers.items()
    }
)

# %% [markdown]
# How long each takes is measured on the page [How fast](22_how_fast).
#
# ## What it does to real models
#
# The book trains networks on two small tasks itself. Every sample of their fine-tuned networks is written in
# three forms: all as AND; split exactly; and split with an allowed error, by which each coalition's value
# may be missed, a share of $|v(N) - v(\emptyset)|$, where $N$ is the set of all players.


# %% tags=["hide-input"]
def count(terms):
    """How many interactions, strongest first, make up nine tenths of a sample's strength."""
    sizes = terms.abs().sort(-1, descending=True).values.cumsum(-1)
    return (sizes < 0.9 * sizes[..., -1:]).sum(-1) + 1.0


rows, kinds = [], {}
for name, v in values.items():
    forms = {"AND alone": (pi.and_transform(v), torch.zeros_like(v))}
    for title, allowed in (("split, exact", 0.0), (f"split, error {noise:g}", noise)):
        split = pi.and_or_split(v, noise=allowed)
        forms[title] = (split.i_and, split.i_or)
        kinds[f"{name}, {title}"] = pi.Interactions(v=v, i_and=split.i_and, i_or=split.i_or)
    scale = (v[:, -1] - v[:, 0]).abs().mean()
    for title, (i_and, i_or) in forms.items():
        terms = torch.cat([i_and[:, 1:], i_or[:, 1:]], -1)
        rows.append(
            {
                "data": name,
                "form": title,
                "strength, in units of |v(N) - v({})|": pi.bootstrap(terms.abs().sum(-1) / scale),
                "terms that hold nine tenths of it": pi.bootstrap(count(terms)),
                "OR share of the strength": (
                    ""
                    if title == "AND alone"
                    else pi.bootstrap(i_or.abs().sum(-1) / terms.abs().sum(-1))
                ),
            }
        )
table = pd.DataFrame(rows).set_index(["data", "form"]).rename_axis([None, None])
table.map(lambda x: x if isinstance(x, str) else tables.said(x))

# %% [markdown]
# Means over samples with 95 % bootstrap intervals. Compare the exact split with the one that allows an error
# before you believe a count of interactions: a network may look sparser only because part of its output is
# counted as error.

# %% mystnb={"figure": {"name": "fig-kinds", "caption": "With the allowed error, the strength is {glue:text}`allowance_images` of the exact split's in images, and {glue:text}`allowance_sentences` in sentences. Strength of AND and OR interactions by order, split exactly and with the allowed error; order 1 is the same either way and counts as AND. Panels of a row share a scale. Whiskers: 95 % intervals over samples."}, "image": {"alt": "Grouped bars of AND and OR strength for each order, a panel per data set and form of the split."}}
figure = figures.and_or(kinds)
for name in values:
    exact, allowed = (kinds[f"{name}, {x}"] for x in ("split, exact", f"split, error {noise:g}"))
    sums = [
        (x.i_and[:, 1:].abs().sum() + x.i_or[:, 1:].abs().sum()).item() for x in (allowed, exact)
    ]
    glue(f"allowance_{name}", f"{100 * sums[0] / sums[1]:.0f} %", display=False)

# %% [markdown]
# ## Interactions that checkpoints share
#
# If each {term}`checkpoint` is split on its own, equally good splits may differ. If they are split together,
# a term that one checkpoint has costs the others less. `shared_split` does so, with a bound as well. How
# many checkpoints have a {term}`salient` term in common?

# %% tags=["hide-input"]
steps = records["images"].over_time("finetuned")
checkpoints = torch.stack([at.v for at in steps.values()], 1)
apart, together = pi.and_or_split(checkpoints), pi.shared_split(checkpoints)


def used(split):
    """By sample: in how many checkpoints a term is salient that is so in any, on average."""
    terms = torch.cat([split.i_and[..., 1:], split.i_or[..., 1:]], -1)
    salient = (terms.abs() > 0.05 * terms.abs().amax(-1, keepdim=True)).sum(1).double()
    return salient.sum(-1) / (salient > 0).sum(-1)


display(
    Markdown(
        f"{len(checkpoints)} images, {len(steps)} checkpoints of fine-tuning each: a term that is "
        f"salient in one checkpoint or more is salient in {pi.bootstrap(used(apart))} of them if "
        f"they are split one by one, in {pi.bootstrap(used(together))} if they are split together; "
        f"difference {pi.bootstrap(used(together) - used(apart))} (means over images with 95 % "
        f"intervals; largest distance from the bound {100 * together.gap.max().item():.2f} %)."
    )
)

# %% [markdown]
# The chapters on what is preserved use AND interactions alone, as the paper does. How to take both kinds
# instead stands on the page [Choices](../choices).
#
# ## Exercises
#
# 1. Why is an interaction of order 1 the same as AND and as OR?
# 2. An allowed error makes the split of a network sparser. Is the network simpler?
#
# :::{dropdown} Answers
# 1. "All of these words" and "any of these words" mean the same of a single word.
# 2. No. The network is the same, and so are its outputs; part of them has been declared an error.
# :::
#
# Next: [do interactions mean anything?](09_do_they_mean_anything)
