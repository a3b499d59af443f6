"""Speed of a run on Bow IPUs, and what limits it: predicted, not measured."""

from typing import Dict, List, NamedTuple, Optional, Tuple

from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.layout import Layout
from ipu_chem.backends.poptorch.planner import Workload, predict_call
from ipu_chem.backends.poptorch.timing import constants as known
from ipu_chem.backends.poptorch.timing.calls import CallTime
from ipu_chem.backends.poptorch.timing.span import Span
from ipu_chem.doctor.host_rate import HostRate

PREDICTED = "predicted, not measured"
_LOADER = "this host's loader"


class Speed(NamedTuple):
    """Rates that the parts of a machine allow, each by itself.

    Attributes:
        molecules: a second, by part.
        call: of the device.
        host: sizes of packs, and what the loader does.
    """

    molecules: Dict[str, Span]
    call: CallTime
    host: HostRate

    @property
    def tightest(self) -> str:
        """The part that allows least."""
        return min(self.molecules, key=lambda part: self.molecules[part].likely)


def predict_speed(workload: Workload, layout: Layout, host: HostRate, link: Optional[float] = None) -> Speed:
    """Predict.

    Args:
        workload, layout: what is trained, and how.
        host: of the same configuration.
        link: GB/s from the host to all IPUs; None is somewhere between what is known to have come through and what a
            port carries.

    Raises:
        ValueError: the link is no speed.
    """
    check_link(link)
    call = predict_call(workload, layout)
    in_a_call = layout.batching.packs_per_call * host.molecules_per_pack
    parts = {"device": call.seconds.rate(in_a_call)}
    parts["host link"] = _link(link).rate(host.molecules_per_pack / host.bytes_per_pack)
    if host.molecules is not None:
        parts[_LOADER] = host.molecules
    return Speed(parts, call, host)


def check_link(link: Optional[float]) -> None:
    """Refuse what is no speed of a link.

    Raises:
        ValueError: says what to give.
    """
    if link is not None and not 0 < link < 1e6:
        raise ValueError(f"link={link:g}: give the GB/s that the host sends to the IPUs, above 0; 12.5 is 100 Gb/s.")


def speed_text(speed: Speed, layout: Layout, unit: str) -> str:
    """In lines for printing; ``unit``: what molecules are made of, "atoms" or "tokens"."""
    host, call = speed.host, speed.call
    in_a_molecule = host.units_per_pack / host.molecules_per_pack
    rows: List[Tuple[str, ...]] = [("", "molecules/s", "from", "to", f"{unit}/s")]
    for part, span in speed.molecules.items():
        rates = (span.likely, span.least, span.most, in_a_molecule * span.likely)
        # Of three digits: more of them mean nothing.
        rows.append((part, *[f"{float(f'{rate:.3g}'):,.0f}" if rate >= 100 else f"{rate:.3g}" for rate in rates]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"speed on Bow IPUs, {PREDICTED}; each part by itself:"]
    for row in rows:
        lines.append("  ".join([row[0].ljust(widths[0]), *[c.rjust(w) for c, w in zip(row[1:], widths[1:])]]).rstrip())
    lines.append(f"tightest: {'' if speed.tightest == _LOADER else 'the '}{speed.tightest}")
    measured = "was measured here, on made-up molecules and no other machine" if host.molecules else "was not measured"
    lines.append(f"{_LOADER} {measured}; it works while the device does")
    lines.append(_call_text(call, layout.batching))
    lines.append(
        f"assumed: {in_a_molecule:.0f} {unit} in a molecule, {host.molecules_per_pack:.1f} molecules in a pack, "
        f"{host.bytes_per_pack:,} bytes of a pack to the device"
    )
    lines.append(f"the device's figure rests on: {'; '.join(call.basis)}")
    lines.append(f"not known before there is a device: {known.UNKNOWN}")
    return "\n".join(lines)


def _call_text(call: CallTime, batching: Batching) -> str:
    """Parts of a call's time, and an option that would save some of it."""
    total = sum(call.parts.values())
    names = {"host": "the host's part of it"}
    parts = [f"{names.get(name, name)} {seconds / total:.0%}" for name, seconds in call.parts.items() if seconds]
    text = f"a call takes {call.seconds.likely * 1e3:.3g} ms on the device: {', '.join(parts)}"
    if call.parts["host"] > 0.1 * total:
        text += f"; more of batching.device_iterations ({batching.device_iterations}) spread the host's part"
    if call.unmerged > 0.05 * total:
        text += f"; ipu.merge_all_reduce=true would save {call.unmerged / total:.0%}"
    return text


def _link(gigabytes: Optional[float]) -> Span:
    """Seconds of a byte."""
    if gigabytes is not None:
        return Span(1e-9 / gigabytes, 1e-9 / gigabytes, 2e-9 / gigabytes)
    # As far from the one as from the other, by factors.
    likely = (known.LINK_LEAST * known.LINK_PORT) ** 0.5
    return Span(1 / known.LINK_PORT, 1 / likely, 1 / known.LINK_LEAST)
