"""The twelve datasets that Hao et al. pre-train on: their equations, sizes and downloads.

`published.py` has all that The Well and PDEBench publish.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogEntry:
    """One of the twelve pre-training datasets, as Hao et al. use it."""

    equation: str
    channels: tuple[str, ...]
    grid: int
    frames: int
    predicted_frames: int
    train: int  # trajectories used by the paper
    test: int
    download: str
    test_share: float = 0.1  # of the trajectories of the published file: its last part


_FNO = "FNO authors' Google Drive (fourier_neural_operator)"
_PDEBENCH = "PDEBench, DaRUS doi:10.18419/darus-2986"
_CFD_CHANNELS = ("vx", "vy", "density", "pressure")
_SMOKE_CHANNELS = ("smoke", "vx", "vy")


def _fno(
    viscosity: str, train: int, frames: int, predicted_frames: int, file: str, trajectories: int
) -> CatalogEntry:
    return CatalogEntry(
        equation=f"Navier-Stokes, vorticity, viscosity {viscosity}",
        channels=("vorticity",),
        grid=64,
        frames=frames,
        predicted_frames=predicted_frames,
        train=train,
        test=200,
        test_share=200 / trajectories,
        download=f"{_FNO}: {file}",
    )


def _cfd(mach: str, viscosity: str, file_id: int) -> CatalogEntry:
    return CatalogEntry(
        equation=f"compressible Navier-Stokes, M={mach}, eta=zeta={viscosity}",
        channels=_CFD_CHANNELS,
        grid=128,
        frames=21,
        predicted_frames=11,
        train=9000,
        test=200,
        download=f"{_PDEBENCH}, file {file_id}",
    )


# In the paper's order.
CATALOG: dict[str, CatalogEntry] = {
    "ns2d_fno_1e-5": _fno("1e-5", 1000, 20, 10, "NavierStokes_V1e-5_N1200_T20.zip", 1200),
    "ns2d_fno_1e-4": _fno("1e-4", 9800, 30, 20, "NavierStokes_V1e-4_N10000_T30.zip", 10000),
    "ns2d_fno_1e-3": _fno("1e-3", 1000, 50, 20, "NavierStokes_V1e-3_N5000_T50.zip", 5000),
    "ns2d_pdb_M1_eta1e-1_zeta1e-1": _cfd("1.0", "0.1", 164691),
    "ns2d_pdb_M1_eta1e-2_zeta1e-2": _cfd("1.0", "0.01", 164690),
    "ns2d_pdb_M1e-1_eta1e-1_zeta1e-1": _cfd("0.1", "0.1", 164688),
    "ns2d_pdb_M1e-1_eta1e-2_zeta1e-2": _cfd("0.1", "0.01", 164687),
    "swe_pdb": CatalogEntry(
        equation="shallow water, radial dam break",
        channels=("h",),
        grid=128,
        frames=101,
        predicted_frames=91,
        train=900,
        test=60,
        download=f"{_PDEBENCH}, file 133021",
    ),
    "dr_pdb": CatalogEntry(
        equation="diffusion-reaction, FitzHugh-Nagumo",
        channels=("u", "v"),
        grid=128,
        frames=101,
        predicted_frames=91,
        train=900,
        test=60,
        download=f"{_PDEBENCH}, file 133017",
    ),
    "ns2d_pda": CatalogEntry(
        equation="incompressible Navier-Stokes with buoyant smoke",
        channels=_SMOKE_CHANNELS,
        grid=128,
        frames=14,
        predicted_frames=4,
        train=6500,
        test=650,
        download="PDEArena, Hugging Face pdearena/NavierStokes-2D",
    ),
    "ns2d_cond_pda": CatalogEntry(
        equation="incompressible Navier-Stokes with buoyant smoke, buoyancy varied",
        channels=_SMOKE_CHANNELS,
        grid=128,
        frames=56,
        predicted_frames=46,
        train=3100,
        test=200,
        download="PDEArena, Hugging Face pdearena/NavierStokes-2D-conditoned (spelt so)",
    ),
    "cfdbench": CatalogEntry(
        equation="incompressible Navier-Stokes past obstacles",
        channels=("u", "v", "mask"),
        grid=64,
        frames=20,
        predicted_frames=10,
        train=9000,
        test=1000,
        download="CFDBench, Hugging Face chen-yingfa/CFDBench",
    ),
}
