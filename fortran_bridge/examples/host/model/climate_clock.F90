!> The clock by which activation and physics are timed.
module climate_clock
  use, intrinsic :: iso_fortran_env, only: int64
  implicit none
  private
  public :: clock_ns

contains

  !> Nanoseconds since some moment.
  integer(int64) function clock_ns()
    integer(int64) :: count, rate

    call system_clock(count, rate)
    clock_ns = (count/rate)*1000000000_int64 + mod(count, rate)*1000000000_int64/rate
  end function clock_ns
end module climate_clock
