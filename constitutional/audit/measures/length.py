"""Does a judge prefer the longer answer?"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from constitutional.audit.measures.records import Estimate, LengthEffect
from constitutional.audit.measures.table import Table
from constitutional.statistics import Interval, rate
from constitutional.statistics.logistic import fit_logistic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WHY = {
    "no data": "no opinion prefers an answer",
    "collinear": "the answers of all comparisons differ alike in length",
    "separated": "length alone tells every verdict apart",
    "not converged": "the fit did not converge",
}


def length_effect(table: Table, rows: NDArray[np.int64]) -> LengthEffect:
    """The effect of length on the opinions of some rows."""
    import numpy as np

    side, x, prompt = table.cells.side[rows], table.log_ratio[rows], table.prompt[rows]
    decided = side != 0
    side, x, prompt = side[decided], x[decided], prompt[decided]
    differ = x != 0
    longer = rate(int(((side > 0) == (x > 0))[differ].sum()), int(differ.sum()))
    prompts = len(np.unique(prompt))
    slope, p_value, why = None, None, None
    if len(np.unique(side)) == 1:
        why = "every opinion prefers the same answer of the two"
    elif prompts < 2:
        why = "fewer than two prompts" if len(side) else _WHY["no data"]
    else:
        fit = fit_logistic(np.stack([x, np.ones_like(x)], axis=1), (side > 0).astype(float), clusters=prompt)
        if fit.problem is not None:
            why = _WHY[fit.problem]
        else:
            from scipy.stats import t

            # of few prompts the sandwich is too sure; with normal quantiles two would reject one time in four
            error, among = sqrt(fit.covariance[0][0]), t(prompts - 1)
            half = float(among.ppf(0.975)) * error
            between = Interval(low=fit.coefficients[0] - half, high=fit.coefficients[0] + half)
            slope = Estimate(value=fit.coefficients[0], n=len(side), prompts=prompts, interval=between)
            p_value = 2 * float(among.sf(abs(fit.coefficients[0]) / error)) if error else None
    return LengthEffect(
        slope=slope or Estimate(value=None, n=len(side), prompts=prompts, interval=None),
        longer_preferred=longer,
        p_value=p_value,
        reason=why,
    )
