"""What The Well and PDEBench publish, and what becomes of it: the source of docs/datasets.md.

Of The Well: its metadata and documentation, version 1.2. Of PDEBench: its list of files.
"""

import math
from dataclasses import dataclass

from dpot_scale.data.catalog import CATALOG

VALUE_BYTES = 4  # as stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Published files that become one dataset each, or all together."""

    files: str  # a folder of The Well; of PDEBench names, with * for what differs
    becomes: str  # the name of the dataset, with ... for what differs; empty: none, or the user's
    fields: tuple[str, ...]  # that change in time
    inputs: tuple[str, ...] = ()  # fields that do not
    tensors: tuple[str, ...] = ()  # imported with --tensors
    grid: tuple[int, ...] = ()
    trajectories: int = 0  # of one dataset
    frames: tuple[int, ...] = ()  # lengths of its trajectories
    stored_frames: int = 0  # of all trajectories together
    special: str = ""

    @property
    def gib(self) -> float:
        """Return the size of one dataset in the store, without tensors, in GiB."""
        values = self.stored_frames * len(self.fields) * math.prod(self.grid)
        return VALUE_BYTES * values / 2**30


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split()) if text else ()


def _well(
    folder: str,
    fields: str,
    grid: tuple[int, ...],
    trajectories: int,
    frames: int | tuple[int, ...],
    special: str = "",
    *,
    inputs: str = "",
    tensors: str = "",
    stored_frames: int = 0,
) -> Published:
    lengths = (frames,) if isinstance(frames, int) else frames
    return Published(
        files=folder,
        becomes=folder,
        fields=_names(fields),
        inputs=_names(inputs),
        tensors=_names(tensors),
        grid=grid,
        trajectories=trajectories,
        frames=lengths,
        stored_frames=stored_frames or trajectories * lengths[0],
        special=special,
    )


_FLOW = "velocity_x velocity_y"
_FLOW_3D = f"{_FLOW} velocity_z"
_ACOUSTIC = "pressure velocity_x velocity_y"
_COEFFICIENTS = "density speed_of_sound"
_EULER = "energy density pressure momentum_x momentum_y"
_STAR = f"density pressure temperature {_FLOW_3D}"
_MHD = f"density magnetic_field_x magnetic_field_y magnetic_field_z {_FLOW_3D}"
_BENARD = f"buoyancy pressure {_FLOW}"
_UNEVEN = "frames are unevenly spaced: the time of each is kept"
_WALLS = "walls in x, open in y; density is up to 1e6 in the walls, an input scaled by itself"

# The folders in alphabetical order.
THE_WELL: tuple[Published, ...] = (
    _well("MHD_256", _MHD, (256,) * 3, 100, 100, "parameters: Mach numbers Ma and Ms"),
    _well("MHD_64", _MHD, (64,) * 3, 100, 100, "parameters: Mach numbers Ma and Ms"),
    _well(
        "acoustic_scattering_discontinuous",
        _ACOUSTIC,
        (256, 256),
        2000,
        101,
        "walls in x, open in y; the inputs are scaled by themselves",
        inputs=_COEFFICIENTS,
    ),
    _well(
        "acoustic_scattering_inclusions",
        _ACOUSTIC,
        (256, 256),
        4000,
        101,
        "walls in x, open in y; the inputs are scaled by themselves",
        inputs=_COEFFICIENTS,
    ),
    _well(
        "acoustic_scattering_maze", _ACOUSTIC, (256, 256), 2000, 201, _WALLS, inputs=_COEFFICIENTS
    ),
    _well(
        "active_matter",
        f"concentration {_FLOW}",
        (256, 256),
        225,
        81,
        "parameters: L, zeta, alpha",
        tensors="D_xx D_xy D_yx D_yy E_xx E_xy E_yx E_yy",
    ),
    _well(
        "convective_envelope_rsg",
        "density energy pressure velocity_r velocity_theta velocity_phi",
        (256, 128, 256),
        29,
        100,
        "a part of a sphere: the axes are r (uniform in log r), theta and phi",
    ),
    _well("euler_multi_quadrants_openBC", _EULER, (512, 512), 5000, 101, "parameter: gamma"),
    _well("euler_multi_quadrants_periodicBC", _EULER, (512, 512), 5000, 101, "parameter: gamma"),
    _well("gray_scott_reaction_diffusion", "A B", (128, 128), 1200, 1001, "parameters: F, k"),
    _well(
        "helmholtz_staircase",
        "pressure_re pressure_im",
        (1024, 256),
        512,
        50,
        "the time step differs with the parameter omega; the mask is 1 on the staircase, no mask "
        "of a fluid: no point is left out of losses",
        inputs="mask",
    ),
    _well(
        "planetswe",
        "height velocity_theta velocity_phi",
        (256, 512),
        120,
        1008,
        "a sphere: the axes are theta and phi",
    ),
    _well(
        "post_neutron_star_merger",
        "density internal_energy pressure temperature electron_fraction entropy "
        "magnetic_field_log_r magnetic_field_theta magnetic_field_phi velocity_log_r "
        "velocity_theta velocity_phi",
        (192, 128, 66),
        8,
        181,
        "the axes are log r, theta and phi",
    ),
    _well(
        "rayleigh_benard",
        _BENARD,
        (512, 128),
        1750,
        200,
        "y is at Chebyshev points, whose coordinates are in the index; parameters: Rayleigh, "
        "Prandtl",
    ),
    _well(
        "rayleigh_benard_uniform",
        _BENARD,
        (512, 128),
        1750,
        200,
        "its files say rayleigh_benard: the folder names it; parameters: Rayleigh, Prandtl",
    ),
    _well(
        "rayleigh_taylor_instability",
        f"density {_FLOW_3D}",
        (128,) * 3,
        45,
        119,
        "the time step differs with the parameter At",
    ),
    _well(
        "shear_flow",
        f"tracer pressure {_FLOW}",
        (256, 512),
        1120,
        200,
        "parameters: Rayleigh, Schmidt",
    ),
    _well("supernova_explosion_128", _STAR, (128,) * 3, 260, 59, _UNEVEN),
    _well("supernova_explosion_64", _STAR, (64,) * 3, 740, 59, _UNEVEN),
    _well(
        "turbulence_gravity_cooling",
        _STAR,
        (64,) * 3,
        2700,
        50,
        "lengths and time steps differ with the parameter rho0; parameters: also Z, T0",
    ),
    _well(
        "turbulent_radiative_layer_2D",
        f"density pressure {_FLOW}",
        (128, 384),
        90,
        101,
        "parameter: tcool",
    ),
    _well(
        "turbulent_radiative_layer_3D",
        f"density pressure {_FLOW_3D}",
        (128, 128, 256),
        90,
        101,
        "parameter: tcool",
    ),
    _well(
        "viscoelastic_instability",
        f"pressure c_zz {_FLOW}",
        (512, 512),
        259,
        (20, 60),
        "trajectories differ in length and time step; parameters: Re, Wi, beta, epsilon, Lmax",
        tensors="C_xx C_xy C_yx C_yy",
        stored_frames=73 * 60 + 186 * 20,
    ),
)


def _pdebench(
    files: str,
    becomes: str,
    fields: str,
    grid: tuple[int, ...],
    trajectories: int,
    frames: int,
    special: str = "",
    *,
    inputs: str = "",
) -> Published:
    return Published(
        files=files,
        becomes=becomes,
        fields=_names(fields),
        inputs=_names(inputs),
        grid=grid,
        trajectories=trajectories,
        frames=(frames,) if frames else (),
        stored_frames=trajectories * frames,
        special=special,
    )


def _of_paper(name: str, files: str, trajectories: int, special: str = "") -> Published:
    """Return files that the paper pre-trains on, which are in the catalogue."""
    entry = CATALOG[name]
    special = ", ".join(filter(None, ("pre-training", special)))
    fields, grid = " ".join(entry.channels), (entry.grid,) * 2
    return _pdebench(files, name, fields, grid, trajectories, entry.frames, special)


_ONE = "single runs, for tests of a solver; not tried here: what is refused is read with --layout"


def _single(files: str, fields: str) -> Published:
    return _pdebench(files, "", fields, (), 0, 0, _ONE)


def _one_dimension(files: str, fields: str) -> Published:
    return _pdebench(files, "", fields, (), 0, 0, "not imported: one space axis")


_CFD = "vx vy density pressure"
_CFD_3D = "vx vy vz pressure density"
_INVISCID = "Eta1e-08_Zeta1e-08_periodic"

# In the order of its list of files, groups of files that are alike together.
PDEBENCH: tuple[Published, ...] = (
    _one_dimension("1D_Advection_Sols_beta*.hdf5", "tensor"),
    _one_dimension("1D_Burgers_Sols_Nu*.hdf5", "tensor"),
    _one_dimension("1D_CFD_*.hdf5", "Vx density pressure"),
    _one_dimension("Sod*.hdf5", "Vx density pressure"),
    _one_dimension("1D_diff-sorp_NA_NA.h5", "data"),
    _one_dimension("ReacDiff_*.hdf5", "tensor"),
    *(
        _of_paper(name, f"2D_CFD_Rand_M{mach}_Eta{eta}_Zeta{eta}_periodic_128_Train.hdf5", 10000)
        for name, mach, eta in (
            ("ns2d_pdb_M1e-1_eta1e-2_zeta1e-2", "0.1", "0.01"),
            ("ns2d_pdb_M1e-1_eta1e-1_zeta1e-1", "0.1", "0.1"),
            ("ns2d_pdb_M1_eta1e-2_zeta1e-2", "1.0", "0.01"),
            ("ns2d_pdb_M1_eta1e-1_zeta1e-1", "1.0", "0.1"),
        )
    ),
    *(
        _pdebench(
            f"2D_CFD_{start}_M*_{_INVISCID}_512_Train.hdf5",
            f"ns2d_pdb_M..._eta1e-8_zeta1e-8_{start.lower()}",
            _CFD,
            (512, 512),
            1000,
            21,
            f"M = 0.1 and 1: a dataset each, which start from {what}",
        )
        for start, what in (("Rand", "random fields"), ("Turb", "turbulence of even pressure"))
    ),
    _single("2D_shock.hdf5", _CFD),
    _single("KH_M*_dk*_Re1e3.hdf5", _CFD),
    _single("OTVortex.hdf5", _CFD),
    _pdebench(
        "2D_DarcyFlow_beta*_Train.hdf5",
        "darcy_pdb_beta...",
        "coefficient_solution",
        (128, 128),
        10000,
        2,
        "beta = 0.01, 0.1, 1, 10 and 100: a dataset each; the frames are coefficient and solution",
    ),
    _of_paper("dr_pdb", "2D_diff-react_NA_NA.h5", 1000, "turned to (x, y), as all data are"),
    _pdebench(
        "ns_incom_inhom_2d_512-*.h5",
        "ns2d_incom_pdb",
        "vx vy particles",
        (512, 512),
        1096,
        1000,
        "274 files of 4 trajectories, one dataset of all that are given; the force is an input",
        inputs="force_x force_y",
    ),
    _of_paper("swe_pdb", "2D_rdb_NA_NA.h5", 1000),
    _pdebench(
        f"3D_CFD_Rand_M1.0_{_INVISCID}_Train.hdf5",
        "ns3d_pdb_M1_eta1e-8_zeta1e-8_rand",
        _CFD_3D,
        (128,) * 3,
        100,
        21,
    ),
    _pdebench(
        f"3D_CFD_Turb_M1.0_{_INVISCID}_Train.hdf5",
        "ns3d_pdb_M1_eta1e-8_zeta1e-8_turb",
        _CFD_3D,
        (64,) * 3,
        600,
        21,
    ),
    _single("BlastWave.hdf5", _CFD_3D),
    _single("Turb_M*.hdf5", _CFD_3D),
)
