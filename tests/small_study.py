"""A study of seconds: scikit-learn's digits as a task, and a profile. Workers import it."""

from sklearn.datasets import load_digits

from pi_lib import study
from pi_lib.study.data import DataSet, Samples


def digits(_) -> DataSet:
    """Data that are everywhere, other than Fashion-MNIST's."""
    pictures, labels = load_digits(return_X_y=True)
    pictures = (pictures.reshape(-1, 8, 8, 1) * 15).astype("uint8")
    train, test = (
        Samples(pictures[part], labels[part]) for part in (slice(0, 1200), slice(1200, None))
    )
    return DataSet(tuple("0123456789"), train, test, origin="scikit-learn")


# Dask loads a preloaded file twice
study.register_data("digits", digits, kind="image", replace=True)


def profile(**changes) -> dict[str, study.Settings]:
    about = {"n_train": 2, "n_test": 2, "batch_size": 2, "epochs": 1, "checkpoints": 2}
    about |= {"runs": 1, "long_runs": 0, "samples": 1, "n": 2, "covering": 0, "n_source": 2}
    about |= changes
    return {
        "image": study.Settings(**({"size": 64} | about)),
        "text": study.Settings(**(about | {"size": None})),
    }


CELL = {"backbone": "resnet20", "task": "digits", "profile": "smoke", "source": "fashion-mnist"}
PROFILE = profile(
    n_train=24,
    n_test=16,
    n_source=16,
    size=32,
    batch_size=8,
    epochs=2,
    samples=2,
    n=3,
    grid=4,
    runs=2,
    long_runs=1,
    long=2,
    covering=4,
)


def dask_setup(_) -> None:
    """Called by a Dask worker that preloads this file."""
    study.PROFILES["smoke"] = PROFILE
