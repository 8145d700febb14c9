!> Constants of the activation schemes, with the values that E3SM uses (shr_const_mod, physconst, ndrop).
!!
!! The Python twin holds the same numbers (emulator/activation/arg.py, modes.py); a test compares results.
module aerosol_activation_constants
  use, intrinsic :: iso_fortran_env, only: real64
  implicit none
  private

  integer, parameter, public :: r8 = real64
  integer, parameter, public :: num_modes = 4  !! MAM4: accumulation, Aitken, coarse, primary carbon

  real(r8), parameter, public :: pi = 3.14159265358979323846_r8
  real(r8), parameter, public :: gravity = 9.80616_r8                           !! m s-2
  real(r8), parameter, public :: gas_constant = 6.02214e26_r8*1.38065e-23_r8    !! J K-1 kmol-1, Avogadro x Boltzmann
  real(r8), parameter, public :: molar_mass_dry_air = 28.966_r8                 !! kg kmol-1
  real(r8), parameter, public :: molar_mass_water = 18.016_r8                   !! kg kmol-1
  real(r8), parameter, public :: gas_constant_dry_air = gas_constant/molar_mass_dry_air  !! J kg-1 K-1
  real(r8), parameter, public :: gas_constant_vapour = gas_constant/molar_mass_water     !! J kg-1 K-1
  real(r8), parameter, public :: heat_capacity_dry_air = 1.00464e3_r8           !! J kg-1 K-1
  real(r8), parameter, public :: latent_heat = 2.501e6_r8                       !! of evaporation, J kg-1
  real(r8), parameter, public :: density_water = 1.0e3_r8                       !! kg m-3

  !> Geometric standard deviation of number against radius (Liu et al. 2016, doi:10.5194/gmd-9-505-2016).
  real(r8), parameter, public :: sigma_g(num_modes) = [1.8_r8, 1.6_r8, 1.8_r8, 1.6_r8]
  real(r8), parameter, public :: ln_sigma_g(num_modes) = log(sigma_g)
  !> Mean volume over volume at the number-median radius.
  real(r8), parameter, public :: exp45_mode(num_modes) = exp(4.5_r8*ln_sigma_g**2)
end module aerosol_activation_constants
