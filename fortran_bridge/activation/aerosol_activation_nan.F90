!> NaN by its bits. A host that compiles these sources with "fast math" (-Ofast, -ffast-math; the default of some compilers)
!! lets the compiler assume that there is none: ieee_is_nan and x /= x are then false, and a comparison may be turned
!! around, so that NaN passes it. Whole numbers are compared as they stand.
module aerosol_activation_nan
  use, intrinsic :: iso_fortran_env, only: int64
  use aerosol_activation_constants, only: r8
  implicit none
  private
  public :: is_nan, quiet_nan

  integer(int64), parameter :: all_but_sign = huge(0_int64)
  integer(int64), parameter :: infinity = 9218868437227405312_int64   !! bits of +Inf: 7FF0 0000 0000 0000
  integer(int64), parameter :: quiet = 9221120237041090560_int64      !! 7FF8 0000 0000 0000

contains

  elemental logical function is_nan(x)
    real(r8), intent(in) :: x

    is_nan = iand(transfer(x, quiet), all_but_sign) > infinity
  end function is_nan

  pure real(r8) function quiet_nan()
    quiet_nan = transfer(quiet, 1._r8)
  end function quiet_nan
end module aerosol_activation_nan
