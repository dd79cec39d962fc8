# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Whether interactions mean anything: planted terms, and hiding the players of the strongest."
# ---

# %% [markdown]
# # Do interactions mean anything?
#
# **Key points**
#
# - Any function of masked inputs can be written as {term}`interactions <interaction>`, so their existence
#   proves nothing. Two checks ask for more. Are terms found that were planted? Does the output move when
#   the players of strong interactions are hidden?
# - Each check has something to compare with: an untrained network, or players drawn at random. Of the
#   planted terms, {glue:text}`planted_trained` is found in trained networks, {glue:text}`planted_untrained`
#   in untrained ones. Hiding the players of a strongest interaction moves the output more than hiding others
#   in {glue:text}`hiding_more` comparisons.
#
# *Needs: [What an interaction is](01_what_is_an_interaction) and
# [What is preserved](03_what_is_preserved), whose results it reads.*

# %% tags=["parameters"]
profile = "quick"  # how much is computed: smoke, quick, reduced or full
seed = 0  # of the planted functions
functions = 12  # planted
terms = 6  # planted in each

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown, display
from myst_nb import glue
from torch import nn

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import begin, figures, tables
from pi_lib.coalitions import membership, order
from pi_lib.progress import track
from pi_lib.study import findings

begin(profile)
small = profile == "smoke"

# %% [markdown]
# ## Planted terms
#
# A function of eight switches is drawn as a sum of a few AND and OR terms of two to four switches. A
# small network sees some of the 256 inputs, few or many, and learns the function from them; the rest
# is held out. Where the network generalises, its interactions should be the planted ones; where it
# has seen too little, they should not. The same network before training is what to compare with.


# %% tags=["hide-input"]
def planted(generator, n=8):
    """AND and OR interactions, (2, 2**n), with `terms` strong ones, half of each kind."""
    middle = torch.nonzero((order(n) >= 2) & (order(n) <= 4))[:, 0]
    truth = torch.zeros(2, 2**n, dtype=torch.float64)
    where = middle[torch.randperm(len(middle), generator=generator)[:terms]]
    size = 1 + torch.rand(terms, generator=generator).double()
    sign = 2.0 * torch.randint(2, (terms,), generator=generator) - 1
    truth[torch.arange(terms) % 2, where] = size * sign
    return truth


def train(target, shown, generator, steps):
    """A network that learns `target` on `shown` inputs: values before, after, and R2 held out."""
    inputs, target = membership(8).float(), target.float()
    shuffled = torch.randperm(256, generator=generator)
    seen, held = shuffled[:shown], shuffled[shown:]
    net = nn.Sequential(
        nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1)
    )
    before = net(inputs)[:, 0].detach().double()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.mse_loss(net(inputs[seen])[:, 0], target[seen]).backward()
        optimiser.step()
        schedule.step()
    after = net(inputs)[:, 0].detach()
    unexplained = (after - target)[held].pow(2).sum() / (target - target[seen].mean())[held].pow(
        2
    ).sum()
    return before, after.double(), 1 - unexplained.item()


def share_found(v, truth):
    """Share of the planted terms among as many strongest terms of the split of v."""
    split = pi.and_or_split(v, noise=0.04)
    strength = torch.cat([split.i_and, split.i_or]).abs() * torch.cat([order(8), order(8)]).gt(0)
    top = strength.topk(terms).indices
    return (truth.flatten()[top] != 0).double().mean().item()


generator = torch.Generator().manual_seed(seed)
torch.manual_seed(seed)
rows = []
for k in track(range(3 if small else functions), "planted functions"):
    truth, shown = planted(generator), (48, 96, 192)[k % 3]
    game = pi.and_inverse(truth[0]) + pi.or_inverse(truth[1])
    before, after, fit = train(game, shown, generator, steps=100 if small else 1000)
    shares = {"trained": share_found(after, truth), "untrained": share_found(before, truth)}
    rows.append({"shown": shown, "fit": fit} | shares)
recovered = pd.DataFrame(rows)

# %% tags=["hide-input"]
display(
    Markdown(
        f"Share of the {terms} planted terms among the {terms} strongest, means over functions "
        f"with 95 % intervals. Chance, {terms} of all {2 * 255} terms drawn at random, is "
        f"{terms / (2 * 255):.2f}."
    )
)
pd.DataFrame(
    {
        f"{shown} inputs seen": {
            "functions": len(part),
            "found, trained": str(pi.bootstrap(part["trained"])),
            "found, untrained": str(pi.bootstrap(part["untrained"])),
            "variance explained (R²), held-out inputs": str(pi.bootstrap(part["fit"])),
        }
        for shown, part in recovered.groupby("shown")
    }
)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-planted", "caption": "Of the planted terms, a share of {glue:text}`planted_trained` is found in trained networks, and {glue:text}`planted_untrained` in untrained ones. A mark per planted function: how well its network generalises, and the share of the planted terms among its strongest interactions."}, "image": {"alt": "A scatter plot of recovered share against explained variance, for trained and untrained networks."}}
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for column, colour, marker in (("trained", "finetuned", "o"), ("untrained", "discarded", "x")):
    axis.plot(
        recovered["fit"], recovered[column], marker, color=figures.COLOURS[colour], label=column
    )
axis.set(ylabel="share of the planted terms found", ylim=(-0.05, 1.05))
axis.set_xlabel("variance explained on held-out inputs (R²) after training")
_ = axis.legend()

# %% tags=["remove-cell"]
for kind in ("trained", "untrained"):
    glue(f"planted_{kind}", str(pi.bootstrap(recovered[kind])), display=False)

# %% [markdown]
# ## Hide the players of what was preserved
#
# If a {term}`preserved` interaction matters for the decision, hiding its players must move the output more
# than hiding as many players at random. The same is asked of the {term}`discarded` and the {term}`new` part.
# Every coalition's value is known already, so the random
# choice is an exact average over all sets of that size, not a sample.

# %%
cells = study.offline_cells(profile)
records = dict(zip(cells, study.run_all(list(cells.values())), strict=True))
runs = {name: findings.Runs(record) for name, record in records.items()}


# %% tags=["hide-input"]
def drops(v, terms):
    """By sample: what hiding the players of its strongest term costs, and of as many others."""
    whole, orders = v.shape[-1] - 1, order(pi.Interactions(v=v, i_and=v).n)
    strength = terms.abs() * (orders > 0) * (orders < orders.max())
    strongest = strength.argmax(-1)
    cost = (v[:, -1:] - v[:, whole - torch.arange(whole + 1)]).abs()  # of hiding each coalition
    chosen = cost.gather(-1, strongest[:, None])[:, 0]
    alike = orders[None] == orders[strongest][:, None]
    others = (cost * alike).sum(-1) / alike.sum(-1)
    has = strength.amax(-1) > 0  # a sample may have nothing of the part
    return chosen[has], others[has]


lines = []
for name, cell in runs.items():
    knowledge, finetuned = cell.knowledge, cell.arms["finetuned"][0]
    for part in knowledge.PARTS:
        chosen, others = drops(finetuned.v, getattr(knowledge, part))
        lines.append(
            {
                "data": name,
                "players of the strongest": part,
                "change of log-odds": pi.bootstrap(chosen),
                "as many at random": pi.bootstrap(others),
                "difference": pi.bootstrap(chosen - others),
            }
        )
counterfactual = pd.DataFrame(lines).set_index(["data", "players of the strongest"])
counterfactual.map(str)

# %% [markdown]
# How far the log-odds of the fine-tuned model move, in nats, whether up or down; means over samples. Players
# of *discarded* interactions are the control: that part of what they did together is not in the fine-tuned
# model.

# %% tags=["hide-input"]
WORDS = {"above": "more", "below": "less", "undecided": "undecided"}
verdicts = pd.DataFrame(
    {
        "cell": [f"{part} in {name}" for name, part in counterfactual.index],
        "verdict": [
            WORDS[x.compared_with(0)] if x.measurable else "not measurable"
            for x in counterfactual["difference"]
        ],
    }
)
more = (verdicts["verdict"] == "more").sum()
glue("hiding_more", f"{more} of {len(verdicts)}", display=False)
display(
    Markdown(
        "How far hiding the players of the strongest interaction moves the output, against as many "
        f"players at random: {tables.in_words(verdicts)}."
    )
)

# %% [markdown]
# It is *more* or *less* if the 95 % interval of the difference lies on one side of 0, else *undecided*; the
# intervals are not corrected for how many rows are looked at. They are of two small networks, and of one
# fine-tuned run of each.
#
# ## What networks that share nothing show
#
# That two networks have interactions in common proves nothing either: by chance, networks that share no
# knowledge have some. What {term}`chance` gives, and what a {term}`second run` of the same network gives,
# stands beside every share from [Train it twice](02_train_it_twice) on. Whether interactions, or single
# players alone, tell which network transfers is asked in [](11_how_far_apart).
#
# ## Exercises
#
# 1. A network fits its training inputs and explains nothing of the others. Should planted terms be found
#    among its strongest?
# 2. Why is hiding the players of an interaction compared with hiding *as many* others, and not with hiding
#    none?
#
# :::{dropdown} Answers
# 1. No: it has not learned the planted function, and its interactions say so. To find them there would
#    speak against the method.
# 2. Hiding anything moves an output. Only what goes beyond hiding as many others is due to which players
#    they are.
# :::
#
# Next, beyond the paper: [how much data](10_how_much_data) makes pre-training unnecessary.
