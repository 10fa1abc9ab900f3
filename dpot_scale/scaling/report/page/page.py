"""The page of a sweep: its numbers, charts and moving pictures in one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.blocks import Block, Items, Section, Table, sections
from dpot_scale.scaling.report.laws.choice import NoFit
from dpot_scale.scaling.report.laws.fit import Fit
from dpot_scale.scaling.report.page import charts
from dpot_scale.scaling.report.page.content import Content
from dpot_scale.scaling.report.page.curves import curve_charts
from dpot_scale.scaling.report.page.parts import Spec
from dpot_scale.terminal import duration
from dpot_scale.tracking import names

PACKAGE = "dpot_scale.scaling.report.page"


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One number that stands at the top."""

    name: str
    value: str
    note: str


def render(content: Content, trials: Sequence[Trial], arms: Sequence[Analysis]) -> str:
    """Return the page, which needs no network.

    Args:
        content: Its texts, tables and pictures.
        trials: All of the sweep, whose curves are drawn.
        arms: The laws of the finished ones.

    Raises:
        RecordError: another version wrote the metrics of a trial.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["items"] = lambda block: isinstance(block, Items)
    environment.filters["breakable"] = _breakable
    template = environment.from_string(_text("template.html"))
    drawn = _charts(trials, arms)
    return template.render(
        content=content,
        cards=cards(content, arms),
        sections=_folded(content.blocks),
        charts=drawn,
        finished=sum(len(found.finished) for found in arms),
        law_caption=charts.law_caption(arms),
        of_each="of each size" if len(arms) == 1 else "of the largest model of each line",
        per_dataset=list(arms[0].shown.result.evaluation),
        rollouts=content.rollouts.shown,
        style=Markup(_text("style.css")),
        script=Markup(_text("script.js")),
        library=Markup(_library()),
    )


def _charts(trials: Sequence[Trial], arms: Sequence[Analysis]) -> dict[str, Spec]:
    """Return all charts by the id of the element that they are drawn in."""
    found: dict[str, Spec | None] = {
        "law": charts.law_chart(arms),
        "compute": charts.compute_chart(arms),
        "isoflop": charts.isoflop_chart(arms),
        "best-size": charts.size_chart(arms),
        "amount": charts.amount_chart(arms),
    }
    found |= {f"curve-{key}": spec for key, spec in curve_charts(trials).items()}
    by_dataset = charts.dataset_charts(arms)
    by_lead = charts.lead_time_charts(arms)
    for number, dataset in enumerate(arms[0].shown.result.evaluation):
        found[f"dataset-{number}"] = by_dataset.get(dataset)
        found[f"lead-{number}"] = by_lead.get(dataset)
    return {key: spec for key, spec in found.items() if spec}


def cards(content: Content, arms: Sequence[Analysis]) -> list[Card]:
    """Return the numbers to begin with."""
    shown, numbers = [], content.numbers
    if content.best is not None:
        best = content.best.result
        note = f"{content.best.trial.label}; persistence {best.mean_persistence_rel_l2:.4f}"
        shown.append(Card(name="best held-out rel_l2", value=f"{best.mean_rel_l2:.4f}", note=note))
    shown += [card for found in arms for card in _law_cards(found)]
    finished, failed = int(numbers[names.TRIALS_FINISHED]), len(content.left_out)
    waiting = content.planned - finished - failed
    note = f"{failed} failed or cancelled, {waiting} not ended"
    shown.append(Card(name="trials finished", value=f"{finished} of {content.planned}", note=note))
    hours, seconds = numbers.get(names.DEVICE_HOURS, 0.0), numbers.get(names.SECONDS, 0.0)
    took = f"{duration(hours * 3600)} of workers, in {duration(seconds)}" if seconds else ""
    flops = f"{numbers[names.TOTAL_FLOPS]:.2e}"
    shown.append(Card(name="training FLOPs", value=flops, note=took))
    return shown


def _law_cards(found: Analysis) -> list[Card]:
    """Return the exponent of size, and what was foretold of the largest size."""
    law = found.law
    if not (isinstance(law, Fit) and law.form.size):
        return []
    exponent = law.parameters()["a"]
    interval = f"95 %: {exponent.low:.3g} to {exponent.high:.3g}"
    name = f"exponent of size{found.of_arm}"
    cards = [Card(name=name, value=f"{exponent.value:.3g}", note=interval)]
    if not isinstance(found.foretold, NoFit):
        one = found.foretold[-1]
        told = one.expected
        where = "inside" if one.holds else "outside"
        cards.append(
            Card(
                name=f"largest size{found.of_arm}",
                value=f"{one.measured:.4f}",
                note=f"foretold {told.value:.4f}, 95 %: {told.low:.4f} to {told.high:.4f}; {where}",
            )
        )
    return cards


def _folded(blocks: Sequence[Block]) -> list[Section]:
    return [section for section in sections(blocks) if section.blocks]


def _breakable(name: str) -> Markup:
    """Return a name that may go on in the next line after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _text(name: str) -> str:
    return (files(PACKAGE) / name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that leaves `vegaEmbed` behind."""
    from vl_convert import javascript_bundle  # starts a JavaScript engine, for a second

    script = javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")  # which would end it
