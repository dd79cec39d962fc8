"""What training gives: the network, its checkpoints, and how good it was at each."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pi_lib.files import whole, write_json

if TYPE_CHECKING:
    import pandas as pd


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite; the message names the step."""


@dataclass(eq=False)
class Run:
    """A finished training run.

    Attributes
    ----------
    model : Module
        The trained model, in eval mode, on the CPU.
    checkpoints : dict of int to state dict
        What training changed, by step; step 0 is the start, the last step the trained model.
    log : list of dict
        At each checkpoint: ``step``, ``epoch``, ``loss`` (nats per sample) and ``accuracy``, both
        on the test split.
    settings : dict
        What decided the run, as JSON values.
    seconds : float
        Wall time; of a run that was resumed, since then.
    correct : bool Tensor (checkpoints, test samples), optional
        Which test samples were right, a row for each of `log`: accuracies of two runs are compared
        sample by sample.
    """

    model: nn.Module
    checkpoints: dict[int, dict[str, Tensor]] = field(repr=False)
    log: list[dict[str, float]]
    settings: dict[str, Any]
    seconds: float
    correct: Tensor | None = field(default=None, repr=False)

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return sorted(self.checkpoints)

    @property
    def accuracy(self) -> float:
        """Accuracy of the trained model on the test split, 0 to 1."""
        return self.log[-1]["accuracy"]

    def at(self, step: int) -> nn.Module:
        """A copy of the model as it was at one of `steps`, in eval mode."""
        if step not in self.checkpoints:
            raise KeyError(f"no checkpoint at step {step}; there are {self.steps}")
        model = copy.deepcopy(self.model)
        return _with_weights(model, self.checkpoints[step])

    def to_frame(self) -> "pd.DataFrame":
        """The log as a table."""
        import pandas as pd

        return pd.DataFrame(self.log)

    def save(self, folder: str | Path) -> Path:
        """Write checkpoints (safetensors) and ``run.json`` into a folder. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for step, state in self.checkpoints.items():
            save_weights(state, folder / f"{step}.safetensors")
        if self.correct is not None:
            save_weights({"correct": self.correct}, folder / "correct.safetensors")
        record = {
            "steps": self.steps, "log": self.log,
            "settings": self.settings, "seconds": self.seconds,
        }  # fmt: skip
        write_json(folder / "run.json", record)  # last: where it is, the others are whole
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> "Run":
        """Read what `save` wrote; `model` is of the trained architecture and gets the weights."""
        folder = Path(folder)
        record = json.loads((folder / "run.json").read_text())
        steps = record.pop("steps")
        checkpoints = {step: load_file(folder / f"{step}.safetensors") for step in steps}
        right = folder / "correct.safetensors"
        correct = load_file(right)["correct"] if right.exists() else None
        run = cls(model=model, checkpoints=checkpoints, correct=correct, **record)
        run.model = run.at(steps[-1])
        return run

    @staticmethod
    def load_at(folder: str | Path, model: nn.Module, step: int | None = None) -> nn.Module:
        """`model` with the weights that `save` wrote for a step, by default the last; eval mode."""
        folder = Path(folder)
        if step is None:
            step = json.loads((folder / "run.json").read_text())["steps"][-1]
        return _with_weights(model, load_file(folder / f"{step}.safetensors"))


def _with_weights(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The model with these weights, which may be a part of its own, as of a probe; eval mode."""
    if strange := model.load_state_dict(weights, strict=False).unexpected_keys:
        raise ValueError(
            f"{type(model).__name__} has no weights {strange[0]!r}: the run is of another network"
        )
    return model.eval()


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights, whole or not at all."""
    with whole(path) as aside:
        save_file({name: x.contiguous() for name, x in weights.items()}, aside)
