!> Stand-in of E3SM's wv_saturation, `qsat` only: Goff & Gratch (1946) over water and ice in the Smithsonian tables'
!! form, blended linearly from 273.15 K to 20 K below, looked up in a table of one entry per kelvin.
!!
!! Made at run time and written apart from `aerosol_activation_saturation` (whose table the compiler makes), so that a
!! comparison of the two means something; a test makes it.
module wv_saturation
  use shr_kind_mod, only: r8 => shr_kind_r8
  use physconst, only: epsilo, h2otrip, tmelt
  implicit none
  private
  public :: wv_sat_init, qsat

  real(r8), parameter :: tmin = 127.16_r8, tmax = 375.16_r8  !! K, ends of the table
  real(r8), parameter :: tboil = 373.16_r8                   !! K
  real(r8), parameter :: ttrice = 20._r8                     !! K, from all water to all ice
  real(r8), allocatable :: estbl(:)                          !! Pa

contains

  !> Before the first call of `qsat`.
  subroutine wv_sat_init()
    integer :: i

    estbl = [(over_mixed_phase(tmin + real(i, r8)), i = 0, ceiling(tmax - tmin) + 1)]
  end subroutine wv_sat_init

  elemental subroutine qsat(t, p, es, qs)
    real(r8), intent(in) :: t    !! K
    real(r8), intent(in) :: p    !! Pa
    real(r8), intent(out) :: es  !! saturation vapour pressure, Pa, at most p
    real(r8), intent(out) :: qs  !! saturation specific humidity, kg kg-1
    real(r8) :: above
    integer :: i

    above = max(min(t, tmax) - tmin, 0._r8)
    i = int(above) + 1
    es = estbl(i) + (above - aint(above))*(estbl(i + 1) - estbl(i))
    qs = 1._r8
    if (p > es) qs = epsilo*es/(p - (1._r8 - epsilo)*es)
    es = min(es, p)
  end subroutine qsat

  pure real(r8) function over_mixed_phase(t)
    real(r8), intent(in) :: t
    real(r8) :: ice

    ice = min(1._r8, max(0._r8, (tmelt - t)/ttrice))
    over_mixed_phase = ice*over_ice(t) + (1._r8 - ice)*over_water(t)
  end function over_mixed_phase

  pure real(r8) function over_water(t)
    real(r8), intent(in) :: t
    real(r8), parameter :: ln10 = log(10._r8)
    real(r8) :: r

    r = tboil/t
    over_water = 101324.6_r8*r**5.02808_r8*exp(ln10*(-7.90298_r8*(r - 1._r8) &
      - 1.3816e-7_r8*(exp(ln10*11.344_r8*(1._r8 - t/tboil)) - 1._r8) &
      + 8.1328e-3_r8*(exp(-ln10*3.49149_r8*(r - 1._r8)) - 1._r8)))
  end function over_water

  pure real(r8) function over_ice(t)
    real(r8), intent(in) :: t
    real(r8), parameter :: ln10 = log(10._r8)
    real(r8) :: r

    r = h2otrip/t
    over_ice = 610.71_r8*r**(-3.56654_r8)*exp(ln10*(-9.09718_r8*(r - 1._r8) + 0.876793_r8*(1._r8 - t/h2otrip)))
  end function over_ice
end module wv_saturation
