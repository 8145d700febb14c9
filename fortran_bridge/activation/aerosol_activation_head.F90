!> From ln S_max to the activated fraction of number and mass of every mode: what follows a network that was exported
!! without its output head, and gives the mass fractions that belong to one exported with it.
!!
!!     fn = erfc(z)/2,   fm = erfc(z - 3 ln(sigma)/sqrt(2))/2,   z = ln(r_c/r)/(sqrt(2) ln(sigma)),
!!
!! r_c the smallest dry radius that activates by kappa-Koehler theory, r the mode's number-median radius. The Python twin
!! is emulator/activation/head.py, which says where the formulas come from; a test holds the two together. Both
!! fractions come from z by erfc, so that they are accurate at both ends, and no number raises an exception that hosts
!! trap (invalid, division by zero, overflow): what is far outside of nature is held at limits.
!!
!! Thread-safe: no module variables, no saved locals, no I/O, no stop. A point's bits do not depend on its neighbours'.
module aerosol_activation_head
  use aerosol_activation_constants, only: r8, num_modes, ln_sigma_g
  implicit none
  private
  public :: kelvin_t, activated_fractions, read_kelvin

  !> What the Kelvin length depends on. The numbers are those of the parcel model that made the training samples, not
  !! the host's: `read_kelvin` takes them from the model file. The defaults are those of the case study.
  type :: kelvin_t
    real(r8) :: molar_mass_water = 18.0e-3_r8          !! kg mol-1
    real(r8) :: gas_constant = 8.314_r8                !! J mol-1 K-1
    real(r8) :: water_density = 1.0e3_r8               !! kg m-3
    real(r8) :: surface_tension = 0.0761_r8            !! at 0 degrees Celsius, J m-2
    real(r8) :: surface_tension_slope = -1.55e-4_r8    !! J m-2 K-1
  end type kelvin_t

  real(r8), parameter :: triple_offset = 273.15_r8     !! K
  real(r8), parameter :: least_tair = 150._r8, largest_tair = 400._r8   !! K
  real(r8), parameter :: least_rh = 0.01_r8, largest_rh = 1._r8
  real(r8), parameter :: least_radius = 1.e-4_r8, largest_radius = 100._r8  !! um
  real(r8), parameter :: least_kappa = 1.e-12_r8, largest_kappa = 3._r8
  real(r8), parameter :: least_ln_smax = log(1.e-6_r8), largest_ln_smax = log(0.3_r8)
  real(r8), parameter :: z_scale(num_modes) = 1._r8/(3._r8*sqrt(2._r8)*ln_sigma_g)
  real(r8), parameter :: mass_shift(num_modes) = 3._r8*ln_sigma_g/sqrt(2._r8)

contains

  !> Fractions of the first `ncol` points; what lies beyond is neither read nor written.
  pure recursive subroutine activated_fractions(kelvin, ld, ncol, ln_smax, tair, rh, r_aer, kappa, fn, fm)
    type(kelvin_t), intent(in) :: kelvin
    integer, intent(in) :: ld                        !! first extent of the arrays
    integer, intent(in) :: ncol                      !! points, at most ld
    real(r8), intent(in) :: ln_smax(ld)              !! what the network gives, 1
    real(r8), intent(in) :: tair(ld)                 !! air temperature, K
    real(r8), intent(in) :: rh(ld)                   !! relative humidity over liquid, 1
    real(r8), intent(in) :: r_aer(ld, num_modes)     !! number-median dry radius, um; 0: no aerosol
    real(r8), intent(in) :: kappa(ld, num_modes)     !! hygroscopicity, 1
    real(r8), intent(inout) :: fn(ld, num_modes)     !! activated fraction of number, 1
    real(r8), intent(inout) :: fm(ld, num_modes)     !! activated fraction of mass, 1
    real(r8) :: factor, offset, slope, length, l, k, u, v, p, excess, change, ratio, z
    real(r8), dimension(num_modes) :: r_aer_i, kappa_i, fn_i, fm_i
    integer :: i, m

    factor = 2.e6_r8*kelvin%molar_mass_water/(kelvin%gas_constant*kelvin%water_density)
    slope = factor*kelvin%surface_tension_slope
    offset = factor*kelvin%surface_tension - slope*triple_offset
    do i = 1, ncol
      length = offset/condensation_level(tair(i), rh(i)) + slope
      l = log_1_plus(exp(within(ln_smax(i), least_ln_smax, largest_ln_smax)))
      r_aer_i = r_aer(i, :)
      kappa_i = kappa(i, :)
      ! Unrolled, this loop would keep to scalar log and erfc; as a loop, gfortran takes them from libmvec, two modes at
      ! a time. Over modes, not points: a point's bits must not depend on its place among them.
      !GCC$ unroll 1
      do m = 1, num_modes
        ! min and max, as merge keeps gfortran from vectorising; NaN comes through l, as the network saw it too
        k = min(max(kappa_i(m), least_kappa), largest_kappa)
        ! Volume growth at the critical radius: root to second order in k/u, then Newton's step.
        u = (k + sqrt(k*(k + l*(3._r8 - 2.5_r8*k))))/l
        v = k/u
        p = u*(u + k)
        excess = 3._r8*k*(u + 1._r8)/p - v*(1._r8 - v*(0.5_r8 - v*(1._r8/3._r8 - v*0.25_r8))) - l
        change = k*(u*(k - 6._r8 - 2._r8*u) - 3._r8*k)/(p*p)
        u = u - excess/change
        ratio = length*u*(u + k)/(3._r8*k*min(max(r_aer_i(m), least_radius), largest_radius)*(u + 1._r8))
        z = log(ratio*ratio*ratio/(u + 1._r8))*z_scale(m)
        fn_i(m) = 0.5_r8*erfc(z)
        fm_i(m) = 0.5_r8*erfc(z - mass_shift(m))
      end do
      fn(i, :) = fn_i
      fm(i, :) = fm_i
    end do
  end subroutine activated_fractions

  !> Temperature of the lifting condensation level, K (Bolton 1980, Eq. 22).
  elemental function condensation_level(tair, rh) result(level)
    real(r8), intent(in) :: tair   !! K
    real(r8), intent(in) :: rh     !! 1
    real(r8) :: level

    level = 55._r8 + 1._r8/(1._r8/(within(tair, least_tair, largest_tair) - 55._r8) &
      - log(within(rh, least_rh, largest_rh))*(1._r8/2840._r8))
  end function condensation_level

  !> ln(1 + s) = 2 artanh(s/(2 + s)), within 4e-11 for 0 <= s <= 0.3.
  elemental function log_1_plus(s) result(l)
    real(r8), intent(in) :: s
    real(r8) :: l, w, q

    w = s/(s + 2._r8)
    q = w*w
    l = w*(2._r8 + q*(2._r8/3._r8 + q*(0.4_r8 + q*(2._r8/7._r8 + q*(2._r8/9._r8 + q*(2._r8/11._r8))))))
  end function log_1_plus

  !> Limits that let NaN pass.
  elemental function within(x, low, high) result(y)
    real(r8), intent(in) :: x, low, high
    real(r8) :: y

    y = merge(low, x, x < low)
    y = merge(high, y, y > high)
  end function within

  !> The constants that a model file names in its metadata entry `libemulator.head`. On failure `errmsg` is allocated.
  subroutine read_kelvin(head, kelvin, errmsg)
    character(len=*), intent(in) :: head             !! the entry: the head's name, then lines of attribute and number
    type(kelvin_t), intent(out) :: kelvin
    character(len=:), allocatable, intent(out) :: errmsg
    character(len=*), parameter :: newline = achar(10)
    character(len=*), parameter :: known = 'activation'
    character(len=:), allocatable :: line
    integer :: start, length, blank, iostat, found
    real(r8) :: value
    logical :: is_name

    start = 1
    found = 0
    is_name = .true.
    do while (start <= len(head))
      length = index(head(start:), newline) - 1
      if (length < 0) length = len(head) - start + 1
      line = head(start:start + length - 1)
      if (is_name) then
        if (line /= known) then
          errmsg = "the model file wants the output head '"//line//"'; this routine is '"//known//"'"
          return
        end if
        is_name = .false.
      else if (length > 0) then
        blank = index(line, ' ')
        iostat = 1
        if (blank > 1) read(line(blank + 1:), *, iostat=iostat) value
        if (iostat /= 0) then
          errmsg = "'"//line//"' in the output head of the model file is no attribute and number"
          return
        end if
        found = found + 1
        select case (line(:blank - 1))
        case ('constant_molar_mass_water'); kelvin%molar_mass_water = value
        case ('constant_gas_constant'); kelvin%gas_constant = value
        case ('constant_water_density'); kelvin%water_density = value
        case ('constant_surface_tension'); kelvin%surface_tension = value
        case ('constant_surface_tension_slope'); kelvin%surface_tension_slope = value
        case default
          errmsg = "'"//line(:blank - 1)//"' in the output head of the model file is unknown to this routine"
          return
        end select
      end if
      start = start + length + 1
    end do
    if (found /= 5) errmsg = 'the model file names no output head with its five constants (libemulator.head); was it '// &
      'exported without its head?'
  end subroutine read_kelvin
end module aerosol_activation_head
