# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "How fast pi_lib is, beside other software, and how it grows."
# ---

# %% [markdown]
# # How fast
#
# **Key points**
#
# - `pi_lib` was measured against what else computes the same: the literature's recipe for the
#   AND-OR split, a linear-programming solver, shapiq's exact transform, and masking in a loop.
# - Each comparison ran side by side, on the same games or images and on the same machine.
# - Beside what was measured stand the targets that the project set itself.
#
# *Needs no other chapter; for the terms, [What an interaction is](01_what_is_an_interaction) and
# [AND and OR](08_and_or). It only reads what `make bench` recorded.*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "../benchmarks/recorded.json"  # of `make bench`, as seen from this folder
cells = "recorded/paper"  # folder of recorded cells: when their steps were computed

# %% tags=["hide-input"]
import json
import re
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib import study
from pi_lib.book import begin, figures
from pi_lib.progress import clock
from pi_lib.study.cell import TITLES

begin(profile)

# %%
recorded = json.loads(Path(record).read_text())
targets = recorded.pop("targets")
rows = {part: pd.DataFrame(entry["rows"]) for part, entry in recorded.items()}
NOT_MEASURED = Markdown("*Not measured in this record.*")

# %% [markdown]
# ## What it set out to reach
#
# The targets are the project's own. Where a target was measured on several networks or devices, the worst
# number counts.


# %% tags=["hide-input"]
def number(value):
    digits = ".2g" if value is not None and value < 0.01 else ".3g"
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:{digits}}"


def named(what):
    """What was measured, with names as people write them."""
    for name, title in sorted(TITLES.items(), key=lambda item: -len(item[0])):
        what = re.sub(rf"\b{re.escape(name)}\b", title, what)
    what = re.sub(r"noise 0\.0(?!\d)", "no noise", what)
    return re.sub(r"2\*\*(\d+)", lambda power: f"{2 ** int(power[1]):,}", what)


met = sum(target["met"] is True for target in targets)
display(Markdown(f"Of {len(targets)} targets {met} are met."))
pd.DataFrame(
    {
        "target": target["target"],
        "wanted": f"{target['relation']} {target['wanted']:,g}",
        "measured": number(target["found"]),
        "": {True: "met", False: "missed", None: "not measured"}[target["met"]],
    }
    for target in targets
).set_index("target").rename_axis(None)

# %% tags=["hide-input"]
LIMITS = {  # what stands in the way of a target, shown where it is missed
    "outside_forward": "What is not the forward is almost all one thing: gathering the output of "
    "the last shared layer for each coalition, which moves as many bytes as the layer has numbers. "
    "Sharing an earlier, smaller layer would lower this share and raise the whole time, so we do "
    "not.",
    "throughput_of_plain": "These runs are short: the passes that check the network, and the waits "
    "for values that are copied back, count beside few batches.",
    "sharing_over_plain": "Both ways are tried on the first sample of a run: where it is the only "
    "one, the trial counts in full.",
}
display(
    Markdown(
        "\n".join(
            f"*Missed: {target['target']}.* {LIMITS.get(target['key'], '')}\n"
            for target in targets
            if target["met"] is False
        )
    )
)

# %% [markdown]
# ## Against other software
#
# The literature's recipe minimises the objective of the AND-OR split by gradient descent through
# dense matrices, for a fixed number of steps, and does not say how close it came; ours stops when
# its gap is certified. The literature runs the recipe one sample at a time; *batched* gives it a
# whole batch at once, which is the harder comparison. HiGHS is SciPy's solver of linear programs.
# shapiq computes the same AND interactions, and the *mask loop* masks player by player on the host,
# as public implementations do.

# %% tags=["hide-input"]
PEERS = {  # part and number -> the peer that it is against; None: the row says
    ("split", "times_less"): None,
    ("split", "times_less_than_batched"): "SGD recipe, batched",
    ("transforms", "times_less"): None,
    ("engine", "throughput_of_loop"): "mask loop",
}


def wanted(part, key, row):
    """The target that was set for this number of this row, if one was."""
    for target in targets:
        same = (target["part"], target["key"]) == (part, key)
        if same and target["row"].items() <= row.items():
            return target["wanted"]


against = pd.DataFrame(
    {
        "what": f"{named(row['what'])}\nagainst {peer or row['peer']}",
        "times": row[key],
        "target": wanted(part, key, row),
    }
    for part, frame in rows.items()
    for row in frame.to_dict("records")
    for (of, key), peer in PEERS.items()
    if of == part and pd.notna(row.get(key))
).astype({"target": float})

# %% mystnb={"figure": {"name": "fig-peers", "caption": "The peers take {glue:text}`peers_least` to {glue:text}`peers_most` times as long as pi_lib. CPU time; for the engine on a GPU, elapsed time. Orange: the target, where one was set."}, "image": {"alt": "Horizontal bars on a logarithmic axis, one for each comparison with a peer, with marks where targets were set."}}
figure = figures.times_less(against, "the peer's time over that of pi_lib")

# %% tags=["remove-cell"]
for name, times in (("least", against["times"].min()), ("most", against["times"].max())):
    glue(f"peers_{name}", number(times), display=False)

# %% tags=["hide-input"]
split = rows["split"]
timed, full = split[["sgd_steps_timed", "sgd_steps"]].dropna().astype(int).iloc[0]
display(
    Markdown(
        f"The recipe's full length is {full:,} steps; "
        + (
            f"{timed:,} were timed, and the rest is extrapolated from them. "
            if timed < full
            else ""
        )
        + f"The split's worst gap in these rows is {100 * split['worst_gap'].max():.2f} %. Ours and "
        "shapiq's interactions differ by "
        f"{rows['transforms']['largest_difference'].max():.0e} at most."
    )
)

# %% [markdown]
# ## The engine and the plain forward
#
# The engine computes what a network says of every masked copy of a sample. The *plain forward* is
# the same network on as many inputs, in batches of the same size, with nothing masked. At the start of a
# run the engine tries two ways to be faster, and keeps what is faster: the first layers run once for
# what masked inputs have in common; in long runs, convolutions take channels last.

# %% tags=["hide-input"]
NAMES = {
    "what": "what",
    "device": "device",
    "engine_s": "engine, s",
    "plain_forward_s": "plain forward, s",
    "mask_loop_s": "mask loop, s",
    "throughput_of_plain": "throughput of plain",
    "outside_forward": "outside the forward",
    "peak_gb": "peak, GB",
    "plain_peak_gb": "peak of plain, GB",
}
if "engine" in rows:
    shown = rows["engine"].reindex(columns=NAMES).rename(columns=NAMES).set_index("what")
    shown = shown.rename(index=named).rename_axis(None).round(3).astype(object)
    shown = shown.where(shown.notna(), "").T
else:
    shown = NOT_MEASURED
shown

# %% [markdown]
# ## On a GPU
#
# A GPU's libraries round the inputs of convolutions to 10 bits unless they are told not to, and order
# sums as they like. The engine computes in full float32. Each row is a check that `make gpu` makes on the
# card itself: what was measured and what is allowed.

# %% tags=["hide-input"]
on_card = rows.get("gpu", pd.DataFrame(columns=["what", "allowed"]))
if "gpu" in rows:
    checks = on_card.dropna(subset="allowed").set_index("what").rename(index=named)
    card = recorded["gpu"]["environment"]["device"]
    columns = {"found": "measured", "allowed": "allowed", "by_default": "rounded by default"}
    shown = checks.reindex(columns=columns).rename(columns=columns).rename_axis(None)
    shown = shown.dropna(axis=1, how="all")
    display(Markdown(f"{int(checks['met'].sum())} of {len(checks)} checks hold on one {card}."))
    shown = shown.map(lambda x: "" if pd.isna(x) else f"{x:.1g}")
else:
    shown = NOT_MEASURED
shown

# %% [markdown]
# The engine against the plain forward there. A run begins with passes that check the network: their time
# is the same in a long run and in a short one, and these are short.

# %% tags=["hide-input"]
COLUMNS = {
    "plain_forward_s": "plain forward, s",
    "engine_s": "engine, s",
    "throughput_of_plain": "throughput of plain",
    "sharing_over_plain": "time with shared layers over without",
}


def on_the_card(columns, digits):
    """The rows of the GPU's part that have these numbers."""
    table = on_card.reindex(columns=["what", *columns]).dropna().set_index("what")
    table = table.rename(index=named, columns=columns).rename_axis(None)
    return table.round(digits) if len(table) else NOT_MEASURED


on_the_card(COLUMNS, 3)

# %% [markdown]
# Training, with the steps of a run recorded once as one graph and repeated, and without:

# %% tags=["hide-input"]
graphed = {
    "images_per_s": "pictures per second",
    "without_graph_images_per_s": "pictures per second, without a graph",
}
on_the_card(graphed, 0)

# %% tags=["hide-input"]
steps = pd.DataFrame(
    {"cell": cell.title, "profile": cell.header["profile"], **step}
    for cell in study.read_all(cells).values()
    for step in cell.header["provenance"].values()
    if step["device"] != "cpu" and "T" in step["finished"]  # with the time of day
)
for (device, level), group in steps.groupby(["device", "profile"]) if len(steps) else ():
    ended = pd.to_datetime(group["finished"]).map(pd.Timestamp.timestamp)
    busy, until = 0.0, 0.0
    for began, end in sorted(zip(ended - group["seconds"], ended, strict=True)):
        busy, until = busy + max(0.0, end - max(began, until)), max(until, end)
    display(
        Markdown(
            f"**The paper's cells.** {group['cell'].nunique()} of them were computed at the "
            f"profile *{level}* on one {device}. Their steps were under way for {clock(busy)}, "
            "several at a time, in processes that share the card."
        )
    )

# %% [markdown]
# ## What would hold up a GPU
#
# A GPU waits for Python, for data and for the disk. How long it waits can be measured without a GPU: on one
# core of a CPU, with a network so small that its arithmetic hardly counts, or with the time of its forward
# passes subtracted.

# %% tags=["hide-input"]
if "host" in rows:
    shown = rows["host"].set_index("what")[["value"]].map(number).rename(index=named)
    shown = shown.rename(columns={"value": "measured"}).rename_axis(None)
else:
    shown = NOT_MEASURED
shown

# %% [markdown]
# ## The overhead of a study
#
# These cells have steps that do nothing but write a file. What takes time is queue, specification, lock,
# checksums and record.

# %% tags=["hide-input"]
if "cells" in rows:
    shown = rows["cells"].set_index("what")[["ms_per_cell"]].round(1)
    shown = shown.rename(columns={"ms_per_cell": "milliseconds per cell"}).rename_axis(None)
else:
    shown = NOT_MEASURED
shown

# %% [markdown]
# ## Growth with the number of players
#
# A game of $n$ players has $2^n$ values, so each further player at least doubles the work. Here one
# game is computed at a time, in CPU time, which other programs on the machine disturb least. Dashed:
# the peers, as far as they were measured.

# %% tags=["hide-input"]
growth = rows["growth"].assign(peer=False)
if growth["device"].nunique() > 1:
    growth["method"] += ", " + growth["device"]
recipe = split[(split["peer"] == "SGD recipe") & (split["noise"] > 0)]
peers = [
    recipe.assign(method="SGD recipe, noise " + recipe["noise"].astype(str)),
    rows["transforms"].assign(method="shapiq"),
]
peers = [x.assign(peer=True, cpu_s_per_game=x["peer_cpu_s_per_game"]) for x in peers]
against_n = pd.concat([growth[growth["what"].str.startswith("against n")], *peers])
methods = list(against_n["method"].unique())

# %% mystnb={"figure": {"name": "fig-seconds", "caption": "From {glue:text}`players_least` to {glue:text}`players_most` players, the CPU time of one game grows by a factor of {glue:text}`split_grows` (split, no noise) and {glue:text}`and_grows` (AND transform); its number of values by {glue:text}`values_grow`. CPU time summed over threads, on a logarithmic axis. Dashed: peers."}, "image": {"alt": "Lines of CPU seconds a game rising with the number of players, one for each method, the peers' dashed."}}
figure = figures.growth(
    against_n, "n", "cpu_s_per_game", methods, xlabel="players n", ylabel="CPU seconds per game"
)


# %% tags=["remove-cell"]
def grows(method, column, x="n"):
    """By what factor a number grows from the least to the most players, or games."""
    lines = growth[growth["what"].str.startswith(f"against {'n' if x == 'n' else 'batch'}")]
    line = lines[lines["method"].str.startswith(method)].sort_values(x)
    return line[column].iloc[-1] / line[column].iloc[0] if len(line) else float("nan")


by_players = growth[growth["what"].str.startswith("against n")]
few, many = (pick(growth["n"]) for pick in (min, max))
for name, value in {
    "players_least": few, "players_most": many, "values_grow": 2 ** int(many - few),
    "split_grows": grows("split, no noise", "cpu_s_per_game"),
    "and_grows": grows("AND transform", "cpu_s_per_game"),
    "batch_split": grows("split", "games_per_s", "batch"),
    "batch_and": grows("AND transform", "games_per_s", "batch"),
    "memory_least": by_players["peak_gb"].min(),
    "memory_most": by_players["peak_gb"].max(),
    "memory_added": by_players["peak_added_gb"].max(),
    "memory_batch": growth.loc[growth["what"].str.startswith("against batch"), "peak_gb"].max(),
    "batch_most": growth["batch"].max(),
}.items():  # fmt: skip
    glue(name, number(value), display=False)

# %% [markdown]
# Memory was measured in a process of its own for each point, and counts all that the process holds,
# Python and torch with it; on a GPU, the GPU's memory alone.

# %% mystnb={"figure": {"name": "fig-memory", "caption": "Peak memory is between {glue:text}`memory_least` and {glue:text}`memory_most` GB, of which the computation itself adds {glue:text}`memory_added` GB at most. Peak memory against the number of players."}, "image": {"alt": "Lines of peak memory in gigabytes against the number of players, one for each method."}}
figure = figures.growth(
    by_players, "n", "peak_gb", methods,
    logarithmic="", xlabel="players n", ylabel="peak memory, GB",
)  # fmt: skip

# %% [markdown]
# ## Growth with the batch
#
# Games are solved together. A line that rises says that a batch is faster than its games one by
# one; where it is flat, the machine is busy with a single game already.

# %% mystnb={"figure": {"name": "fig-batch", "caption": "With {glue:text}`batch_most` games in one call instead of one, the split solves {glue:text}`batch_split` times as many games per second, the AND transform {glue:text}`batch_and` times as many. Both axes are logarithmic."}, "image": {"alt": "Lines of games a second against the size of the batch, one for each method."}}
against_batch = growth[growth["what"].str.startswith("against batch")]
(n,) = against_batch["n"].unique()
figure = figures.growth(
    against_batch, "batch", "games_per_s", methods,
    logarithmic="xy", xlabel=f"games in one call (n = {n})", ylabel="games per second",
)  # fmt: skip

# %% mystnb={"figure": {"name": "fig-batch-memory", "caption": "Up to {glue:text}`batch_most` games in one call, peak memory is at most {glue:text}`memory_batch` GB."}, "image": {"alt": "Lines of peak memory in gigabytes against the size of the batch, one for each method."}}
figure = figures.growth(
    against_batch, "batch", "peak_gb", methods,
    logarithmic="x", xlabel=f"games in one call (n = {n})", ylabel="peak memory, GB",
)  # fmt: skip

# %% [markdown]
# ## Where, when, and how to do it again
#
# Each part of the record says when and where it was made.

# %% tags=["hide-input"]
pd.DataFrame(
    {
        part: {
            "date": entry["date"][:10],
            "took": clock(entry["seconds"]),
            "processor": entry["environment"]["processor"],
            "cores": entry["environment"]["cores"],
            "machine": entry["environment"]["machine"].replace(" 1 threads", " 1 thread"),
            "device": entry["environment"]["device"],
            "commit": (entry["environment"]["commit"] or "")[:10],
        }
        | entry["environment"]["versions"]
        for part, entry in recorded.items()
    }
).fillna("")

# %% [markdown]
# On your own machine, with a GPU or without:
#
#     make bench                                   # all parts; replaces what this page reads
#     make gpu                                     # the part for a machine with a GPU
#     python -m benchmarks transforms growth       # these parts anew, the others as they were
#     python -m benchmarks --record results/mine.json
#     python -m pi_lib run --only 22 -p record=../results/mine.json
