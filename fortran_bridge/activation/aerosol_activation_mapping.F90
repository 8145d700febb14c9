!> From a host's native aerosol state to the inputs that the emulators of the case study are trained on.
!!
!! Every host that calls such an emulator pays for this mapping at each point, so it is written to vectorise: no
!! division, no power, columns innermost. The median radius needs a cube root per mode and point; with
!! r^3 = 3 V / (4 pi N exp(4.5 ln^2 sigma)) it is had from one inverse cube root, r = c V (V^2 N)^(-1/3).
module aerosol_activation_mapping
  use, intrinsic :: iso_fortran_env, only: int64
  use aerosol_activation_constants, only: r8, num_modes, pi, gas_constant_dry_air, exp45_mode
  implicit none
  private
  public :: inverse_cube_root, emulator_inputs, emulator_inputs_of_point, mode_volume
  public :: num_known_inputs, known_input_names, known_input_units

  !> Inputs that `emulator_inputs` can make, by the names and units of the case study's sample files.
  integer, parameter :: num_known_inputs = 4 + 3*num_modes
  character(len=9), parameter :: known_input_names(num_known_inputs) = [character(len=9) :: &
    'tair', 'pressure', 'rh', 'wbar', 'num_aer_1', 'num_aer_2', 'num_aer_3', 'num_aer_4', &
    'r_aer_1', 'r_aer_2', 'r_aer_3', 'r_aer_4', 'kappa_1', 'kappa_2', 'kappa_3', 'kappa_4']
  character(len=6), parameter :: known_input_units(num_known_inputs) = [character(len=6) :: &
    'K', 'hPa', '1', 'cm s-1', 'cm-3', 'cm-3', 'cm-3', 'cm-3', 'um', 'um', 'um', 'um', '1', '1', '1', '1']

  !> A mode of this number or less holds no aerosol: E3SM's threshold, m-3.
  real(r8), parameter :: absent_mode = 1.e-39_r8
  real(r8), parameter :: pi43 = 4._r8/3._r8*pi
  real(r8), parameter :: pressure_factor = 0.01_r8*gas_constant_dry_air  !! hPa m3 kg-1 K-1
  !> um: 1e6 times the cube root of 1/(4/3 pi exp(4.5 ln^2 sigma)).
  real(r8), parameter :: radius_factor(num_modes) = 1.e6_r8*(pi43*exp45_mode)**(-1._r8/3._r8)

contains

  !> x**(-1/3) for normal positive x, to 4 units in the last place. NaN gives NaN; other x a number without meaning.
  !!
  !! The bits of x, read as an integer, are about an affine function of log2(x). Dividing them by -3 gives a start
  !! within 3.6 %; the division is a sum of shifts, which every vector unit has for 64 bits. A step
  !! z <- z (1 - h)^(-1/3), h = 1 - x z^3, expanded to h^4, takes |h| from 0.102 to 4.4e-6; there h^2 is enough.
  elemental function inverse_cube_root(x) result(z)
    real(r8), intent(in) :: x
    real(r8) :: z
    ! 4/3 of the bits of 1.0, less the share that balances the largest and smallest h over an octave (found by search).
    integer(int64), parameter :: start = 6142603421778713982_int64
    real(r8), parameter :: c1 = 1._r8/3._r8, c2 = 2._r8/9._r8, c3 = 14._r8/81._r8, c4 = 35._r8/243._r8
    integer(int64) :: bits
    real(r8) :: h

    bits = transfer(x, bits)
    bits = shiftr(bits, 2) + shiftr(bits, 4)
    bits = bits + shiftr(bits, 4)
    bits = bits + shiftr(bits, 8)
    bits = bits + shiftr(bits, 16)
    z = transfer(start - bits, z)
    h = 1._r8 - x*(z*z*z)
    z = z + z*(h*(c1 + h*(c2 + h*(c3 + h*c4))))
    h = 1._r8 - x*(z*z*z)
    z = z + z*(h*(c1 + h*c2))
  end function inverse_cube_root

  !> Volume concentration of a lognormal mode, m3 m-3.
  elemental function mode_volume(mode, number, radius) result(volume)
    integer, intent(in) :: mode      !! 1 to 4
    real(r8), intent(in) :: number   !! number concentration, m-3
    real(r8), intent(in) :: radius   !! number-median dry radius, m
    real(r8) :: volume

    volume = pi43*exp45_mode(mode)*radius*radius*radius*number
  end function mode_volume

  !> Emulator inputs of `ncol` neighbouring columns at one level, gathered into rows of `x`.
  !!
  !! A mode without aerosol gets radius 0, which a model that takes logarithms lifts to its training minimum.
  pure subroutine emulator_inputs(pcols, pver, first, ncol, level, t, rho, w, rh, na, volume, hygro, &
      column, offset, ldx, x)
    integer, intent(in) :: pcols, pver                     !! extents of the host's chunk
    integer, intent(in) :: first, ncol                     !! columns first to first + ncol - 1 are taken
    integer, intent(in) :: level
    real(r8), intent(in) :: t(pcols, pver)                 !! air temperature, K
    real(r8), intent(in) :: rho(pcols, pver)               !! air density, kg m-3
    real(r8), intent(in) :: w(pcols, pver)                 !! updraft speed, m s-1
    real(r8), intent(in) :: rh(pcols, pver)                !! relative humidity over liquid, 1
    real(r8), intent(in) :: na(pcols, pver, num_modes)     !! number concentration, m-3
    real(r8), intent(in) :: volume(pcols, pver, num_modes) !! volume concentration, m3 m-3
    real(r8), intent(in) :: hygro(pcols, pver, num_modes)  !! hygroscopicity, 1
    integer, intent(in) :: column(num_known_inputs)        !! column of x for each known input; 0: not wanted
    integer, intent(in) :: offset                          !! rows of x before the first one to fill
    integer, intent(in) :: ldx                             !! first extent of x
    real(r8), intent(inout) :: x(ldx, *)                   !! inputs in the emulator's units

    integer :: last, m

    last = first + ncol - 1
    if (column(1) > 0) call scale(ncol, 1._r8, t(first:last, level), x(offset + 1:offset + ncol, column(1)))
    if (column(2) > 0) call pressure_hpa(ncol, rho(first:last, level), t(first:last, level), &
      x(offset + 1:offset + ncol, column(2)))
    if (column(3) > 0) call scale(ncol, 1._r8, rh(first:last, level), x(offset + 1:offset + ncol, column(3)))
    if (column(4) > 0) call scale(ncol, 100._r8, w(first:last, level), x(offset + 1:offset + ncol, column(4)))
    do m = 1, num_modes
      if (column(4 + m) > 0) call scale(ncol, 1.e-6_r8, na(first:last, level, m), &
        x(offset + 1:offset + ncol, column(4 + m)))
      if (column(8 + m) > 0) call median_radius_um(ncol, radius_factor(m), na(first:last, level, m), &
        volume(first:last, level, m), x(offset + 1:offset + ncol, column(8 + m)))
      if (column(12 + m) > 0) call scale(ncol, 1._r8, hygro(first:last, level, m), &
        x(offset + 1:offset + ncol, column(12 + m)))
    end do
  end subroutine emulator_inputs

  !> Every input of one point, in the order of `known_input_names`, with the bits that `emulator_inputs` gives.
  pure subroutine emulator_inputs_of_point(t, rho, w, rh, na, volume, hygro, known)
    real(r8), intent(in) :: t, rho, w, rh  !! as above
    real(r8), dimension(num_modes), intent(in) :: na, volume, hygro
    real(r8), intent(out) :: known(num_known_inputs)
    integer :: m

    known(1) = t
    known(2) = pressure_factor*rho*t
    known(3) = rh
    known(4) = 100._r8*w
    do m = 1, num_modes
      known(4 + m) = 1.e-6_r8*na(m)
      known(8 + m) = median_radius(radius_factor(m), na(m), volume(m))
      known(12 + m) = hygro(m)
    end do
  end subroutine emulator_inputs_of_point

  pure subroutine scale(n, factor, a, b)
    integer, intent(in) :: n
    real(r8), intent(in) :: factor, a(n)
    real(r8), intent(out) :: b(n)
    integer :: i

    do i = 1, n
      b(i) = factor*a(i)
    end do
  end subroutine scale

  pure subroutine pressure_hpa(n, rho, t, pressure)
    integer, intent(in) :: n
    real(r8), intent(in) :: rho(n), t(n)    !! kg m-3, K
    real(r8), intent(out) :: pressure(n)    !! hPa
    integer :: i

    do i = 1, n
      pressure(i) = pressure_factor*rho(i)*t(i)
    end do
  end subroutine pressure_hpa

  pure subroutine median_radius_um(n, factor, na, volume, radius)
    integer, intent(in) :: n
    real(r8), intent(in) :: factor             !! radius_factor of the mode, um
    real(r8), intent(in) :: na(n), volume(n)   !! m-3, m3 m-3
    real(r8), intent(out) :: radius(n)         !! um
    integer :: i

    do i = 1, n
      radius(i) = median_radius(factor, na(i), volume(i))
    end do
  end subroutine median_radius_um

  elemental function median_radius(factor, na, volume) result(radius)
    real(r8), intent(in) :: factor, na, volume  !! as above
    real(r8) :: radius
    ! Keeps the root's argument off 0, where its powers would overflow; lost in rounding otherwise.
    real(r8), parameter :: far_below = 1.e-290_r8
    real(r8) :: v

    ! No volume where there is no number, and r = 0 follows. min, since merge keeps gfortran from vectorising.
    v = volume*min(1._r8, na*(1._r8/absent_mode))
    radius = factor*v*inverse_cube_root(v*v*na + far_below)
  end function median_radius
end module aerosol_activation_mapping
