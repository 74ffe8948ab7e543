"""The scaling law of a study: which networks it is fitted to, the table, and the sentence."""

from dataclasses import replace

from diffx.compare.ahead.scaling import FEWEST, Network, Scaling, fit_scaling
from diffx.compare.shown.cell import Table
from diffx.compare.study import Study
from diffx.curves.metric import name_metric
from diffx.errors import DiffxError
from diffx.plain import NONE, write_number, write_value

PATCH = "backbone.patch_size"


def scale_study(study: Study) -> Study:
    """The study with a power law of every metric in training FLOPs, over the methods' last evaluations.

    Raises DiffxError where fewer than FEWEST methods counted different FLOPs.
    """
    laws = []
    for result in study.results:
        networks = list_networks(study, result.metric)
        if len({round(one.flops, -3) for one in networks}) < FEWEST:
            raise DiffxError(
                f"--scaling fits a line to networks of at least {FEWEST} training costs, and these runs have "
                f"{len({one.flops for one in networks})} in {name_metric(result.metric)}; a study of them is: python "
                "-m diffx -m +experiment=scaling"
            )
        laws.append(fit_scaling(result.metric, networks))
    return replace(study, scalings=tuple(laws))


def list_networks(study: Study, metric: str) -> list[Network]:
    """The end of every method that has counted its FLOPs, by patch size. Seeds are taken where all of them ended."""
    found = []
    for method in study.methods:
        curves = study.points.curves(method.label, metric, "train_flops", sound=True).values()
        ends = [(curve.end, curve.y[-1]) for curve in curves if curve.end > 0 and curve.y[-1] > 0]
        if ends:
            flops = sum(end for end, _ in ends) / len(ends)
            patch = method.settings.get(PATCH)
            group = NONE if patch is None else f"patch {write_value(patch)}"
            found.append(Network(method.label, group, flops, tuple(value for _, value in ends)))
    return found


def tabulate_scaling(law: Scaling) -> Table:
    """Every network beside the law."""
    rows = [
        (one.label, one.group, write_number(one.flops), f"{one.middle:.3g}", f"{law.value(one.flops):.3g}",
         f"{one.middle / float(law.value(one.flops)):.2f}×")
        for one in sorted(law.networks, key=lambda one: one.flops)
    ]  # fmt: skip
    header = ("network", "patch", "training FLOPs", "measured", "law", "off by")
    return Table(f"Scaling: {name_metric(law.metric)}", header, tuple(rows), write_scaling(law))


def write_scaling(law: Scaling) -> str:
    """The exponent within its interval, and what it says for ten times the compute."""
    low, high = law.interval
    told = "" if low > 0 else " The interval holds zero: these networks do not show that compute helps."
    return (
        f"{name_metric(law.metric)} ∝ (training FLOPs)^−{law.exponent:.2f} [95 %: {low:.2f} – {high:.2f}] over "
        f"{len(law.networks)} networks: {10**law.exponent:.2f} times lower for ten times the FLOPs. Networks are off "
        f"it by a factor of {law.scatter:.2f} (root mean square).{told}"
    )
