!> Saturation as E3SM's physics looks it up: Goff & Gratch (1946), water and ice blended linearly between 273.15 and
!! 253.15 K, one table entry per kelvin, linear interpolation; and the same over liquid alone.
!!
!! The tables are constants that the compiler makes: nothing to initialise, nothing that threads could share wrongly.
module aerosol_activation_saturation
  use aerosol_activation_constants, only: r8, molar_mass_dry_air, molar_mass_water
  implicit none
  private
  public :: saturation_humidity, relative_humidity

  real(r8), parameter :: melting_point = 273.15_r8  !! K
  real(r8), parameter :: boiling_point = 373.16_r8  !! K, steam point that the fit was made with
  real(r8), parameter :: triple_point = 273.16_r8   !! K
  real(r8), parameter :: blend_range = 20._r8       !! K
  real(r8), parameter :: epsilon_water = molar_mass_water/molar_mass_dry_air

  real(r8), parameter :: table_start = 127.16_r8  !! K
  real(r8), parameter :: table_end = 375.16_r8    !! K
  integer, parameter :: table_size = 250  ! one entry per kelvin, and one past the end for the interpolation

  integer :: i
  real(r8), parameter :: t(table_size) = [(table_start + real(i, r8), i = 0, table_size - 1)]
  real(r8), parameter :: boiling_ratio(table_size) = boiling_point/t
  real(r8), parameter :: triple_ratio(table_size) = triple_point/t
  real(r8), parameter :: over_water(table_size) = 100._r8*10._r8**( &
    -7.90298_r8*(boiling_ratio - 1._r8) + 5.02808_r8*log10(boiling_ratio) &
    - 1.3816e-7_r8*(10._r8**(11.344_r8*(1._r8 - 1._r8/boiling_ratio)) - 1._r8) &
    + 8.1328e-3_r8*(10._r8**(-3.49149_r8*(boiling_ratio - 1._r8)) - 1._r8) + log10(1013.246_r8))
  real(r8), parameter :: over_ice(table_size) = 100._r8*10._r8**( &
    -9.09718_r8*(triple_ratio - 1._r8) - 3.56654_r8*log10(triple_ratio) &
    + 0.876793_r8*(1._r8 - 1._r8/triple_ratio) + log10(6.1071_r8))
  real(r8), parameter :: ice_share(table_size) = max(0._r8, min(1._r8, (melting_point - t)/blend_range))
  real(r8), parameter :: table(table_size) = ice_share*over_ice + (1._r8 - ice_share)*over_water

contains

  !> Specific humidity at saturation over mixed-phase cloud, kg kg-1; 1 where the air would boil.
  elemental function saturation_humidity(temperature, pressure) result(qs)
    real(r8), intent(in) :: temperature  !! K; outside 127.16-375.16 K the end of the table is used
    real(r8), intent(in) :: pressure     !! Pa
    real(r8) :: qs

    qs = humidity_at(table, temperature, pressure)
  end function saturation_humidity

  !> Relative humidity over liquid, q/q_sat, cut to 0 to 1 (hosts' grid means exceed 1): what the emulators of the case
  !! study take, and `activate_modal` is not told. The emulator cuts it to its training range itself.
  elemental function relative_humidity(humidity, temperature, pressure) result(rh)
    real(r8), intent(in) :: humidity     !! specific humidity, kg kg-1
    real(r8), intent(in) :: temperature  !! K
    real(r8), intent(in) :: pressure     !! Pa
    real(r8) :: rh

    rh = min(max(humidity/humidity_at(over_water, temperature, pressure), 0._r8), 1._r8)
  end function relative_humidity

  !> Specific humidity at saturation, kg kg-1, from a table of vapour pressures, Pa.
  pure function humidity_at(vapour_pressures, temperature, pressure) result(qs)
    real(r8), intent(in) :: vapour_pressures(table_size), temperature, pressure
    real(r8) :: qs
    real(r8) :: position, weight, vapour_pressure
    integer :: below

    position = max(min(temperature, table_end) - table_start, 0._r8)
    below = max(min(int(position), table_size - 2), 0)  ! for NaN: a place within the table
    weight = position - real(below, r8)
    vapour_pressure = (1._r8 - weight)*vapour_pressures(below + 1) + weight*vapour_pressures(below + 2)
    if (pressure - vapour_pressure <= 0._r8) then
      qs = 1._r8
    else
      qs = epsilon_water*vapour_pressure/(pressure - (1._r8 - epsilon_water)*vapour_pressure)
    end if
  end function humidity_at
end module aerosol_activation_saturation
