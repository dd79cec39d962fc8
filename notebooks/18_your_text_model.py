# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Interactions of your own text model."
# ---

# %% [markdown]
# # Your own text model
#
# **Key points**
#
# - A model of `transformers` goes to `pi_lib.extract` as it is: what has `.logits` is understood.
# - {term}`Players <player>` are content words, not words such as *the* or *of*. A word is masked whole, with
#   the tokenizer's own mask token.
# - AND and OR effects can be told apart, with a bound on how far the split is from the best one.
#
# *Needs: [What an interaction is](01_what_is_an_interaction). The model here is a small BERT, trained on this
# page from random weights.*

# %% tags=["parameters"]
profile = "quick"  # how much is computed: smoke, quick, reduced or full
seed = 0  # of the samples, the players and the training

# %%
import torch
from IPython.display import Markdown, display
from myst_nb import glue
from transformers import BertConfig, BertForSequenceClassification

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import as_markdown, begin, figures
from pi_lib.study import backbones, data

begin(profile)
small = profile == "smoke"

# %% [markdown]
# ## A model and a tokenizer
#
# If you have a model and a tokenizer of your own, skip this section. The tokenizer must be a *fast* one, which
# knows where in the sentence each token stands.

# %%
reviews = data.load("movie-reviews", n_train=200 if small else 1200, n_test=200, seed=seed)
tokenizer = backbones.tokenizer("minilm")
torch.manual_seed(seed)
sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
model = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=256, num_labels=2))
run = pi.train_from_scratch(
    model, reviews.train, reviews.test, epochs=1 if small else 4, learning_rate=1e-3, checkpoints=3,
    tokenizer=tokenizer, seed=seed,
)  # fmt: skip
run.to_frame()

# %% [markdown]
# ## Interactions between words
#
# A sentence needs at least `n` content words; `fits` says whether it has them.

# %%
players = pi.WordPlayers(tokenizer, n=6, seed=seed)
chosen = [i for i, s in enumerate(reviews.test.inputs) if players.fits(s)][: 4 if small else 16]
samples = reviews.test.take(chosen)
interactions = pi.extract(run.model, samples.inputs, samples.labels, players, ids=samples.ids)

# %% tags=["hide-input"]
display(
    Markdown(
        f"> {as_markdown(samples.inputs[0])}\n\ntrue class: *{reviews.classes[samples.labels[0]]}*"
    )
)
interactions.top(6)

# %% mystnb={"figure": {"name": "fig-own-words", "caption": "Of the {glue:text}`own_words_shown` strongest interactions between words of this sentence, {glue:text}`own_words_against` speak against its true class. Orange adds to the true class, blue takes away."}, "image": {"alt": "Signed horizontal bars, one for each of the strongest groups of words."}}
figure = figures.strongest(interactions, k=8)

# %% tags=["remove-cell"]
shown = interactions.top(8)["value"]
glue("own_words_shown", len(shown), display=False)
glue("own_words_against", int((shown < 0).sum()), display=False)

# %% [markdown]
# ## AND and OR
#
# `kind="and-or"` writes the same values as a sum of AND effects (all of these words together) and OR effects
# (any of them), split so that the sizes of all effects add up to as little as possible. `gap` bounds how far
# the split can be from the best one. `noise` allows each value to be missed by a share of
# $|v(N) - v(\emptyset)|$: [AND and OR](08_and_or) measures what that changes.

# %%
split = pi.extract(
    run.model, samples.inputs, samples.labels, players, ids=samples.ids, kind="and-or", noise=0.04
)
split.top(6)

# %% tags=["hide-input"]
gaps = split.meta["gap"]
alone, both = (pi.bootstrap(x.salient().sum(-1).double()) for x in (interactions, split))
terms = 2**interactions.n - 1
display(
    Markdown(
        f"Largest gap over the sentences: {100 * max(gaps):.2f} %. Salient interactions per sentence: "
        f"{alone} of {terms} (AND alone), {both} of {2 * terms} (AND-OR)."
    )
)

# %% [markdown]
# ## Before and after
#
# Any two models can be compared, if they are asked about the same players. Here they are the first and the
# last {term}`checkpoint` of the run above: what was in the random weights, and what training brought.

# %% mystnb={"figure": {"name": "fig-own-text", "caption": "Of what was in the random weights, a share of {glue:text}`own_text_preserved` is preserved in the trained model; by chance it is {glue:text}`own_text_chance`. Preserved, discarded and new from random weights to the trained model, by order. Whiskers: 95 % bootstrap intervals over sentences."}, "image": {"alt": "Grouped bars of preserved, discarded and new strength for each order."}}
first = pi.extract(run.at(0), samples.inputs, samples.labels, players, ids=samples.ids)
knowledge = pi.compare(first, interactions)
figure = knowledge.plot()

# %% tags=["remove-cell"]
glue("own_text_preserved", str(knowledge.preserved_share()), display=False)
glue("own_text_chance", str(knowledge.preserved_share().chance), display=False)

# %% [markdown]
# Each model's interactions are divided by its own mean $|v(N) - v(\emptyset)|$ first: faint effects of the
# random weights are drawn as large as those of the trained model. What a {term}`second run` would give is
# asked in [](21_your_own_transfer).
#
# Next: [a language model](19_a_language_model), which was pre-trained several times.
