!> What a host puts beyond the valid columns of a chunk, so that a scheme that touches them is caught.
module host_padding
  use, intrinsic :: iso_fortran_env, only: int64
  use aerosol_activation_constants, only: r8
  implicit none
  private
  public :: signalling_nan, is_padding

  integer(int64), parameter :: bits = int(z'7FF4000000000000', int64)

contains

  !> From its bits: ieee_value may compute, and computing with a signalling NaN is what it must catch.
  function signalling_nan() result(nan)
    real(r8) :: nan

    nan = transfer(bits, nan)
  end function signalling_nan

  !> Is this still what `signalling_nan` gave?
  elemental logical function is_padding(value)
    real(r8), intent(in) :: value

    is_padding = transfer(value, bits) == bits
  end function is_padding
end module host_padding
