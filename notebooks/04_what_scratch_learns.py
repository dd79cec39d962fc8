# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What scratch training learns
#
# **Key points**
#
# - The preserved {term}`interactions <interaction>` are knowledge that both the pre-trained and the
#   fine-tuned model use. Could a network have learned them from the downstream data alone?
# - We look for them in the model trained from scratch, at its end and at every checkpoint.
# - The paper reports that scratch training learns 13 to 45 % of them. This chapter says where our
#   numbers fall.
#
# *Needs: [What is preserved](03_what_is_preserved), whose results it reads. Five minutes to read,
# seconds to run.*

# %% tags=["parameters"]
profile = "quick"
seed = 0

# %%
import pandas as pd
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import figures

figures.style()
cells = study.offline_cells(profile, seed)
results = dict(zip(cells, study.run_all(list(cells.values())), strict=True))

# %% [markdown]
# ## The share that scratch training found
#
# A preserved interaction counts as learned as far as the scratch model has it, with the same sign:
#
# $$\text{learned} = \frac{\sum_S [K_{preserve}(S)\, I_{scr}(S) > 0]\;
#   \min(|K_{preserve}(S)|, |I_{scr}(S)|)}{\sum_S |K_{preserve}(S)|}.$$

# %% mystnb={"figure": {"name": "fig-learned", "caption": "Share of the preserved knowledge that scratch training learned, within each order, beside the paper's range."}, "image": {"alt": "Bars per order in two panels with a grey band for the paper's range."}}
figure = figures.learned({name: result.learned for name, result in results.items()})

# %% [markdown]
# The grey band of {numref}`fig-learned` is the paper's range {cite}`jiang2024`. Whiskers are 95 %
# bootstrap intervals over samples; the dashed line is the share over all orders. A share within an order can only be
# measured where something of that order was preserved.

# %% tags=["hide-input"]
low, high = figures.PAPER_LEARNED
lines, table = [], {}
for name, result in results.items():
    ratio, mean = result.learned.ratio(), result.learned.mean_ratio()
    inside = ratio.low >= low and ratio.high <= high
    outside = ratio.high < low or ratio.low > high
    verdict = "confirmed" if inside else "contradicted" if outside else "undecided"
    lines.append(
        f"- {name}: scratch training learned {ratio} of the preserved strength (ratio of sums; "
        f"mean of per-sample ratios {mean}). Within {low:.0%} to {high:.0%}: **{verdict}**"
    )
    table[name] = {
        f"test accuracy, {figures.NAMES[phase]}": str(getattr(result, phase).accuracy)
        for phase in study.PHASES
    } | {"learned by scratch": str(ratio)}
display(Markdown("\n".join(lines)))

# %% [markdown]
# *Undecided* means that the interval reaches across a border of the range.
#
# Beside the accuracies:

# %% tags=["hide-input"]
pd.DataFrame(table)

# %% [markdown]
# ## While it trains
#
# Does scratch training pick the preserved knowledge up early, late, or never? The share at each
# checkpoint, for the preserved knowledge of the *finished* fine-tuned model:

# %% mystnb={"figure": {"name": "fig-learned-time", "caption": "The learned share at every checkpoint of scratch training. Bands: 95 % bootstrap intervals."}, "image": {"alt": "Line charts of the learned share against training progress, in two panels."}}
figure = figures.learned_over_time(results)

# %% [markdown]
# At step 0 the scratch model has random weights, so what it "knows" of the preserved interactions
# there is chance agreement. The rise above that first point is what training added.

# %% tags=["hide-input"]
lines = []
for name, result in results.items():
    first, *_, last = result.learned_over_time().values()
    gain = pi.bootstrap(
        last.found.sum(-1) - first.found.sum(-1),
        last.preserved.sum(-1),
        statistic=pi.knowledge.ratio_of_sums,
    )
    words = {
        "above": "more than chance agreement",
        "below": "less than random weights do",
        "undecided": "no more than chance agreement can be told from these samples",
    }[gain.compared_with(0)]
    lines.append(
        f"- {name}: random weights {first.ratio()}, trained {last.ratio()}, difference {gain}: "
        f"{words}"
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## What to keep in mind
#
# Scratch training here has as many steps as fine-tuning. A longer run may learn more: the curve's
# slope at the right edge hints at it, and the parameter `profile` trains longer.
#
# ## Where these numbers come from

# %% tags=["hide-input"]
pd.concat({name: result.provenance() for name, result in results.items()})
