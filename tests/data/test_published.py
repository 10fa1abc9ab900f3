"""The catalogue of The Well and PDEBench agrees with what their publishers say, and with itself."""

from fnmatch import fnmatch

import pytest

from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.info import is_dataset_name
from dpot_scale.data.published import PDEBENCH, THE_WELL, Published

# Published sizes in GB, where they are those of the fields alone: of the folders of The Well.
SIZES = {
    "MHD_256": 4580,
    "MHD_64": 71.6,
    "acoustic_scattering_discontinuous": 157.7,
    "acoustic_scattering_inclusions": 283.8,
    "acoustic_scattering_maze": 311.3,
    "active_matter": 51.3,
    "convective_envelope_rsg": 570,
    "euler_multi_quadrants_openBC": 5170 / 2,
    "euler_multi_quadrants_periodicBC": 5170 / 2,
    "gray_scott_reaction_diffusion": 153.8,
    "helmholtz_staircase": 52.4,
    "planetswe": 185.8,
    "post_neutron_star_merger": 110.1,
    "rayleigh_benard": 342,
    "rayleigh_benard_uniform": 342,
    "supernova_explosion_128": 754,
    "supernova_explosion_64": 268.2,
    "turbulence_gravity_cooling": 829.4,
    "turbulent_radiative_layer_2D": 6.9,
    "turbulent_radiative_layer_3D": 744.6,
    "viscoelastic_instability": 66,
}

# Of PDEBench's list of files: all, and of runs of numbers the first and the last.
FILES = [
    "1D_Advection_Sols_beta0.1.hdf5",
    "1D_Advection_Sols_beta7.0.hdf5",
    "1D_Burgers_Sols_Nu0.001.hdf5",
    "1D_CFD_Rand_Eta0.01_Zeta0.01_periodic_Train.hdf5",
    "1D_CFD_Shock_Eta1.e-8_Zeta1.e-8_trans_Train.hdf5",
    "Sod1.hdf5",
    "Sod7.hdf5",
    "1D_diff-sorp_NA_NA.h5",
    "ReacDiff_Nu0.5_Rho1.0.hdf5",
    "ReacDiff_react_Nu10.0_Rho5.0.hdf5",
    "2D_CFD_Rand_M0.1_Eta0.01_Zeta0.01_periodic_128_Train.hdf5",
    "2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
    "2D_CFD_Rand_M0.1_Eta1e-08_Zeta1e-08_periodic_512_Train.hdf5",
    "2D_CFD_Rand_M1.0_Eta0.01_Zeta0.01_periodic_128_Train.hdf5",
    "2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
    "2D_CFD_Rand_M1.0_Eta1e-08_Zeta1e-08_periodic_512_Train.hdf5",
    "2D_CFD_Turb_M0.1_Eta1e-08_Zeta1e-08_periodic_512_Train.hdf5",
    "2D_CFD_Turb_M1.0_Eta1e-08_Zeta1e-08_periodic_512_Train.hdf5",
    "2D_shock.hdf5",
    "KH_M01_dk10_Re1e3.hdf5",
    "KH_M1_dk1_Re1e3.hdf5",
    "OTVortex.hdf5",
    "2D_DarcyFlow_beta0.01_Train.hdf5",
    "2D_DarcyFlow_beta100.0_Train.hdf5",
    "2D_diff-react_NA_NA.h5",
    "ns_incom_inhom_2d_512-0.h5",
    "ns_incom_inhom_2d_512-273.h5",
    "2D_rdb_NA_NA.h5",
    "3D_CFD_Rand_M1.0_Eta1e-08_Zeta1e-08_periodic_Train.hdf5",
    "3D_CFD_Turb_M1.0_Eta1e-08_Zeta1e-08_periodic_Train.hdf5",
    "BlastWave.hdf5",
    "Turb_M01.hdf5",
    "Turb_M4.hdf5",
]


def test_the_well_has_23_folders() -> None:
    assert len({entry.files for entry in THE_WELL}) == 23
    assert all(is_dataset_name(entry.becomes) for entry in THE_WELL)


@pytest.mark.parametrize("entry", [e for e in THE_WELL if e.files in SIZES], ids=lambda e: e.files)
def test_grid_frames_and_fields_give_the_published_size(entry: Published) -> None:
    fields = len(entry.fields)
    whole = entry.gib * 2**30 / 1e9 * (fields + len(entry.tensors)) / fields
    assert whole == pytest.approx(SIZES[entry.files], rel=0.13)


@pytest.mark.parametrize("file", FILES)
def test_every_file_of_pdebench_is_in_one_row(file: str) -> None:
    assert len([entry for entry in PDEBENCH if fnmatch(file, entry.files)]) == 1


def test_what_the_paper_uses_is_there_with_its_size() -> None:
    published = {entry.becomes: entry for entry in PDEBENCH}
    for name, entry in CATALOG.items():
        if "PDEBench" in entry.download:
            assert published[name].fields == entry.channels
            assert published[name].frames == (entry.frames,)
            trajectories = published[name].trajectories
            assert entry.train == round(trajectories * (1 - entry.test_share))
