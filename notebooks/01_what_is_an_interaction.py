# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "What an interaction of image patches or words is: a game by hand, one image and one sentence."
# ---

# %% [markdown]
# # What an interaction is
#
# **Key points**
#
# - A network's output on one input can be written, exactly, as a sum of effects: one for every
#   set of input parts that act together. We call these effects {term}`interactions <interaction>`;
#   game theory knows them as {term}`Harsanyi dividends <Harsanyi dividend>`.
# - They are defined by masking: the output with some parts present and the rest hidden.
# - An interaction of order 1 is what a part contributes on its own; one of order 3 is what three
#   parts contribute together beyond all that their subsets contribute.
#
# *Needs no other chapter.*

# %% tags=["parameters"]
profile = "quick"  # how much is computed: smoke, quick, reduced or full
image = 0  # which of the sampled images is shown
sentence = 0  # which of the sampled sentences
strongest = 8  # how many interactions are drawn as bars

# %%
import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import as_markdown, begin, figures
from pi_lib.book.explorers import explore_game, explore_sample
from pi_lib.coalitions import label
from pi_lib.study import data

begin(profile)

# %% [markdown]
# ## A game of three words, by hand
#
# Imagine a model that reads the review *not very good* and gives a score: how sure it is that the
# review is positive, where 0 is undecided. Let the three words be {term}`players <player>`. We leave
# some of them visible and hide the others: the visible ones are a {term}`coalition` $T$, and $v(T)$ is
# its score. The scores are made up, so that the arithmetic can be checked by eye.

# %% mystnb={"figure": {"name": "fig-game", "caption": "Together, *not* and *good* take away more than *good* alone adds. The game by hand: the score of every coalition (left) and its interactions (right)."}, "image": {"alt": "Two bar charts over the eight coalitions of the words not, very and good."}}
names = ["not", "very", "good"]
scores = {
    "": 0.0, "not": -0.5, "very": 0.0, "good": 2.0,
    "not very": -0.5, "not good": -1.5, "very good": 3.0, "not very good": -2.5,
}  # fmt: skip
figure = figures.game(scores, names)

# %% [markdown]
# *Good* alone raises the score by 2. *Not* alone lowers it a little. But *not good* together is far
# below what the two contribute separately: $-0.5 + 2 = 1.5$, while the score is $-1.5$. The
# difference, $-3$, belongs to the pair. It is its **interaction**: the part of $v(\{\text{not},
# \text{good}\})$ that no smaller set explains. In general
#
# $$I(S) = \sum_{T \subseteq S} (-1)^{|S| - |T|}\, v(T), \qquad
#   v(T) = \sum_{S \subseteq T} I(S).$$
#
# The first formula is the *Möbius transform* of the game {cite}`harsanyi1963`; the second says that
# nothing is lost: the output is exactly the sum of the interactions among the visible parts.
# `pi_lib` computes both for all coalitions at once.

# %%
v = figures.game_by_hand(scores, names)
interactions = pi.and_transform(v)
for s in range(len(v)):
    print(f"{label(s, names):18} v = {v[s]:5.1f}   I = {interactions[s]:5.1f}")
assert torch.equal(pi.and_inverse(interactions), v)

# %% [markdown]
# Three axioms hold. A player that never changes the output is in no interaction (*null player*). The
# interactions always add up to the full output ({term}`efficiency`). Players that can be swapped get
# equal interactions (*symmetry*). The tests of this book hold the code to them. In JupyterLab, make
# *very* neutral: give *very good* the score of *good*, and *not very good* that of *not good*. Run the
# cells again, and the interactions of *very* vanish.
#
# The sliders move values of the game: *good* alone, *not good*, and the whole review. In JupyterLab
# all values move. Watch which interactions follow: only those of sets that hold the coalition moved.

# %%
explore_game(
    scores,
    names,
    {
        "good": [-2.0, 0.0, 1.0, 3.0],
        "not good": [-3.0, 0.0, 1.5, 3.0],
        "not very good": [-4.0, 0.0, 2.5, 4.0],
    },
)

# %% [markdown]
# ## A real image
#
# Now the players are patches of a real photograph of a piece of clothing, and the model is a real
# one: EfficientNet-Lite0, trained on ImageNet, with a new linear head for the ten classes of
# Fashion-MNIST ({term}`linear probe`). The value of a masked image is the log-odds of its true
# class,
#
# $$v(x_T) = \log \frac{p(y \mid x_T)}{1 - p(y \mid x_T)},$$
#
# in nats: 0 is even odds, and each step of 0.69 doubles the odds. A hidden patch becomes the mean
# colour of the data set (its {term}`baseline`).

# %%
cell = study.offline_cells(profile)["images"]
clothes = study.load(cell)
model = study.trained_model(cell, "probe")
samples = study.samples(cell, clothes)
patches = study.players(cell, clothes)

pictures = data.images(samples.inputs)
of_images = pi.extract(model, pictures, samples.labels, patches, ids=samples.ids)

# %% tags=["hide-input"]
true = as_markdown(clothes.classes[samples.labels[image]])
whole, hidden = of_images.v[image, -1], of_images.v[image, 0]
display(
    Markdown(
        f"This is a *{true}*. With all patches visible the log-odds of that class are {whole:+.2f} "
        f"nats, with its {of_images.n} players hidden {hidden:+.2f}. Its {2**of_images.n - 1} "
        "interactions add up to the difference."
    )
)

# %% mystnb={"figure": {"name": "fig-patches", "caption": "The players: patches named by row and column, drawn at random from the central part of the image."}, "image": {"alt": "An image of clothing with the patches that are players outlined and named."}}
placement = patches.place(pictures, samples.ids)[image]
figure = figures.players_on_image(placement)

# %% [markdown]
# {numref}`fig-on-image` shows the strongest of its interactions. Orange ones speak for the true
# class, blue ones against it; {numref}`fig-image-bars` shows the same numbers as bars.

# %% mystnb={"figure": {"name": "fig-on-image", "caption": "The strongest interactions of the image, in nats; each outlines the patches that act together."}, "image": {"alt": "Copies of the image, each with the patches of one interaction outlined, its value above."}}
figure = figures.interactions_on_image(placement, of_images, image, k=5)

# %% mystnb={"figure": {"name": "fig-image-bars", "caption": "{glue:text}`image_for` of the {glue:text}`image_shown` strongest interactions of the image speak for its true class. The same numbers as signed bars."}, "image": {"alt": "Horizontal bars, one per interaction, labelled with its patches."}}
figure = figures.strongest(of_images, image, k=strongest)

# %% [markdown]
# Choose another image, AND or OR, the highest order, and how strong an interaction must be, as a share
# of the strongest (the threshold). *AND* writes the output as effects of patches that are all visible,
# *OR* as effects of patches of which any is visible ([AND and OR](08_and_or) tells more). The curve
# says how well the strongest interactions alone rebuild the outputs of all masked copies of the image;
# the dot is where your choice stands. Errors above 1.2 are drawn at 1.2.

# %%
explore_sample(of_images, pictures, patches)

# %% [markdown]
# ## A real sentence
#
# Here the players are words, each masked whole by the model's mask token, and the model is MiniLM,
# a small BERT, with a new linear head that tells positive from negative film reviews.

# %%
cell = study.offline_cells(profile)["sentences"]
reviews = study.load(cell)
model = study.trained_model(cell, "probe")
texts = study.samples(cell, reviews)
words = study.players(cell, reviews)
of_sentences = pi.extract(model, texts.inputs, texts.labels, words, ids=texts.ids)

# %% tags=["hide-input"]
display(
    Markdown(
        f"> {as_markdown(texts.inputs[sentence])}\n\n"
        f"The review is *{reviews.classes[texts.labels[sentence]]}*. The players are the words "
        f"*{as_markdown(', '.join(of_sentences.players[sentence]))}*; the others stay visible. "
        f"Log-odds of the true class: {of_sentences.v[sentence, -1]:+.2f} nats with them, "
        f"{of_sentences.v[sentence, 0]:+.2f} without."
    )
)

# %% mystnb={"figure": {"name": "fig-sentence-bars", "caption": "{glue:text}`sentence_for` of the {glue:text}`sentence_shown` strongest interactions of the sentence speak for its true class. Their values as signed bars."}, "image": {"alt": "Horizontal bars, one per interaction, labelled with its words."}}
figure = figures.strongest(of_sentences, sentence, k=strongest)

# %% tags=["remove-cell"]
for name, result, sample in (("image", of_images, image), ("sentence", of_sentences, sentence)):
    shown = result.top(strongest, sample)["value"]
    glue(f"{name}_shown", len(shown), display=False)
    glue(f"{name}_for", int((shown > 0).sum()), display=False)

# %% [markdown]
# The same choices for the sentences. Words that act together are marked, orange where they speak for
# the true class and blue where they speak against it; the other players are underlined.

# %%
explore_sample(of_sentences, texts.inputs, words)

# %% [markdown]
# ## How many interactions rebuild the output?
#
# Writing an output as a sum of $2^n$ numbers would be no insight if all of them mattered. So keep only
# the strongest $k$ interactions of each sample, and compare the output that they add up to with the
# real one, over all $2^n$ masked inputs. ($v(\emptyset)$ is always known, and counts as the first.)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-rebuild", "caption": "The strongest tenth of all interactions leaves an error of {glue:text}`rebuild_images` for images and of {glue:text}`rebuild_sentences` for sentences, means over samples. Error of the output rebuilt from the strongest interactions, over all masked inputs; a grey line per sample. Errors above 1.5 are not drawn."}, "image": {"alt": "Two line charts of relative error, falling to zero when all interactions are kept."}}
results = {"images": of_images, "sentences": of_sentences}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained", sharey=True)
for axis, (name, result) in zip(axes, results.items(), strict=True):
    counts = torch.logspace(0, result.n, 25, 2).int().unique()
    error = figures.rebuild_error(result, counts)
    axis.plot(counts, error.T, color="0.55", linewidth=0.7)
    axis.plot(counts, error.quantile(0.5, 0), color="C0", label="median sample")
    axis.set(title=f"{name}, linear probe", xscale="log", ylim=(0, 1.5))
    axis.set_xlabel(f"strongest interactions kept, of {2**result.n:,}")
    axis.set_xticks(*[[x for x in (1, 10, 100, 1000) if x <= 2**result.n]] * 2)
    axis.minorticks_off()
axes[0].set_ylabel("relative error of the\nrebuilt output")
_ = axes[1].legend()

# %% tags=["hide-input"]
lines = []
for name, result in results.items():
    tenth = max(1, 2**result.n // 10)
    error = pi.bootstrap(figures.rebuild_error(result, [tenth])[:, 0])
    glue(f"rebuild_{name}", f"{error.value:.2f}", display=False)
    lines.append(
        f"- {name}: with the strongest tenth ({tenth} of {2**result.n}), the relative error is "
        f"{error} (mean over {len(result)} samples, 95 % interval)"
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# An error of 1 is that of a constant, the mean output; 0 is exact. The earlier the curve falls, the
# *sparser* are the interactions on these data. [What is preserved](03_what_is_preserved) calls an
# interaction {term}`salient` if it is strong beside the strongest one of its sample, and asks which
# salient interactions survive fine-tuning.

# %% [markdown]
# ## On a model of your own
#
# Everything above is three calls. `model` is any callable that returns logits.
#
# ```python
# import pi_lib as pi
# players = pi.PatchPlayers(grid=8, n=10)
# interactions = pi.extract(model.eval(), images, labels, players)
# interactions.top(10, sample=0)
# ```

# %% tags=["remove-cell"]
singles = of_images.terms[image][of_images.orders == 1].sum().item()
glue("triple", f"{interactions[-1]:+.1f}", display=False)
glue("singles", f"{singles:+.2f}", display=False)
glue("whole", f"{whole - hidden:+.2f}", display=False)

# %% [markdown]
# ## Exercises
#
# 1. In the game by hand, what do the three words add that no pair and no single word explains?
#    Subtract by hand, then look at the table.
# 2. A fourth word is added that never changes the score. How many interactions are there now, and
#    which of them are not 0?
# 3. Do single patches explain the image's log-odds? Add up the interactions of order 1.
#
# :::{dropdown} Answers
# 1. {glue:text}`triple`: the score of all three words, minus the interactions of its six smaller sets.
# 2. Twice as many, with the empty set 16 in place of 8; those that hold the new word are all 0, and
#    the others stay as they were.
# 3. Single patches add up to {glue:text}`singles` nats, all interactions to {glue:text}`whole`: what is
#    missing is in groups of two and more.
# :::
#
# Next: [would the same interactions come back](02_train_it_twice) if the network were trained again?
