"""The report's sections in their order, and what each is called, says and shows: for the page and for W&B."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gan_lab.report.comparison import arrowed, is_better_low
from gan_lab.report.tables import note

# By initialization: what the metrics begin with that hold the variance it aims at.
TARGETS = {
    "LeCun": "weight_var_lecun/",
    "Xavier": "weight_var_xavier/",
    "Kaiming": "weight_var_kaiming/",
}
SCALE = "norm.scale"


@dataclass(frozen=True)
class Chart:
    """One metric over the iterations; of a chart by layer, `metric` is what the layers' metrics begin with.

    Around a mean over runs goes a band: the standard error, or from the least to the most of any run, for
    which `ends` may name other metrics. `log` says how the axis begins, None: it is never logarithmic.
    """

    title: str
    metric: str
    log: bool | None = False
    error: bool = False
    ends: tuple[str, ...] = ()
    bound: str = ""  # what the metrics of the layers' bounds begin with
    targets: bool = False  # whether the initializations' TARGETS are drawn too


@dataclass(frozen=True)
class Section:
    """`id` also says how it is drawn."""

    id: str
    title: str
    words: str
    charts: tuple[Chart, ...] = ()


TRAINING = (
    Chart("Discriminator's loss", "loss/d"),
    Chart("Generator's loss", "loss/g"),
    Chart("Penalty", "loss/penalty"),
    Chart("Score of real images", "score/real", log=None),
    Chart("Score of generated images", "score/fake", log=None),
    Chart("Gradient norm of the discriminator", "grad_norm/d", log=True),
    Chart("Gradient norm of the generator", "grad_norm/g", log=True),
    *(
        Chart(title, f"slope/{kind}_mean", log=True, ends=(f"slope/{kind}_min", f"slope/{kind}_max"))
        for kind, title in (("real", "Slopes at real images"), ("fake", "Slopes at generated images"))
    ),
    Chart("Lipschitz bound of the discriminator", "lipschitz/d", log=True),
    Chart("Curvature of the discriminator's loss", "curvature/d", log=True),
    Chart("Spread of the layers' operator norms", "operator_norm_spread/d", log=True),
)
LAYERS = (
    Chart("Gradient norms and their bounds", "grad_norm/d/", log=True, bound="grad_bound/d/"),
    Chart("Sigmas", "sigma/"),
    Chart("Weight variances and the initializations' targets", "weight_var/", log=True, targets=True),
    Chart("Learned scales", "gamma/"),
    Chart("Operator norms", "operator_norm/", log=True),
    Chart("Stable ranks", "stable_rank/", log=True),
    Chart("Spectra: the median singular value over the largest", "spectrum_median/"),
    Chart("Norms of the trained weights", "trained_norm/", log=True),
)


def sections(
    judged: Sequence[str],
    names: Iterable[str],
    swept: Sequence[str],
    samples: bool = True,
    damaged: bool = False,
    differences: str = "",
) -> list[Section]:
    """Those that have something to show.

    `judged` are the metrics of the table, `names` all recorded ones, `swept` the keys to draw one against,
    `differences` says what those to the best are.
    """
    names = set(names)
    scores = [(metric, False if is_better_low(metric) else None) for metric in judged]
    training = tuple(chart for chart in TRAINING if chart.metric in names)
    by_layer = tuple(chart for chart in LAYERS if any(name.startswith(chart.metric) for name in names))
    found: list[Section | None] = [
        Section("table", "Summary", note(best="Bold", untested="“no test”")),
        Section("differences", "Differences to the best", differences) if differences else None,
        Section(
            "metrics",
            "FID and IS over training",
            "Lines are means over seeds, bands their standard error.",
            tuple(Chart(arrowed(metric), metric, log, error=True) for metric, log in scores),
        )
        if judged
        else None,
        Section(
            "scale",
            "Metric against scale" if SCALE in swept else "Metric against a setting",
            "A point is the mean over the seeds that finished, its bar the standard error.",
            tuple(Chart(f"{arrowed(metric)} against the setting", metric, log) for metric, log in scores),
        )
        if judged and swept
        else None,
        Section(
            "samples",
            "Samples",
            "The first images of each run's grid, from the same latents throughout; as many as this page has "
            "room for.",
        )
        if samples
        else None,
        Section(
            "training",
            "Losses, slopes and gradients",
            "Long records are cut into stretches: lines are means over a stretch and over seeds, bands reach "
            "from the least to the most of any iteration and seed, so that every spike shows; many "
            "groups are lines only. Slopes are ‖∇ₓD(x)‖ over a batch. Audits "
            "log the bound, the curvature ‖H_w‖ and the spread, the largest operator norm over the least.",
            training,
        )
        if training
        else None,
        Section(
            "layers",
            "Layer by layer",
            "The paper's argument: a norm bounds every layer's gradient (dotted: the theory's bound, where "
            "it was logged) and holds its weight variance near an initialization's target (grey: dashed "
            "LeCun 1/fan_in, dotted Xavier 2/(fan_in + fan_out), dash-dotted Kaiming 2/fan_in). Operator "
            "norms, ranks and spectra are of effective weights, at audits: a stable rank counts the singular "
            "values that are as large as the first.",
            by_layer,
        )
        if by_layer
        else None,
        Section(
            "config",
            "What differs",
            "The config keys that are not the same in all these runs, and nothing else.",
        ),
        Section("damaged", "Damaged", "What could not be read was left out; the rest is complete.")
        if damaged
        else None,
    ]
    return [section for section in found if section]


def is_shown(name: str) -> bool:
    """Whether a chart of training, or of its layers, shows the metric of this name."""
    wholes = {part for chart in TRAINING for part in (chart.metric, *chart.ends)}
    prefixes = tuple(part for chart in LAYERS for part in (chart.metric, chart.bound) if part)
    return name in wholes or name.startswith(prefixes)


def layers(names: Iterable[str]) -> list[str]:
    """The layers among metrics' names, in their order, of those that the charts by layer show."""
    split = ((name, chart.metric) for name in names for chart in LAYERS if name.startswith(chart.metric))
    return list(dict.fromkeys(name.removeprefix(prefix) for name, prefix in split))
