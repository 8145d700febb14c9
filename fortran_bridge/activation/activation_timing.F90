!> The clock and the median of what measures activation: the cost programs here, and the example hosts.
module activation_timing
  use, intrinsic :: iso_fortran_env, only: int64
  use aerosol_activation_constants, only: r8
  implicit none
  private
  public :: clock_ns, median

contains

  !> Nanoseconds since some moment.
  integer(int64) function clock_ns()
    integer(int64) :: count, rate

    call system_clock(count, rate)
    clock_ns = (count/rate)*1000000000_int64 + mod(count, rate)*1000000000_int64/rate
  end function clock_ns

  pure real(r8) function median(values)
    real(r8), intent(in) :: values(:)
    real(r8) :: sorted(size(values)), v
    integer :: i, j

    sorted = values
    do i = 2, size(sorted)
      v = sorted(i)
      do j = i - 1, 1, -1
        if (sorted(j) <= v) exit
        sorted(j + 1) = sorted(j)
      end do
      sorted(j + 1) = v
    end do
    median = 0.5_r8*(sorted((size(sorted) + 1)/2) + sorted(size(sorted)/2 + 1))
  end function median
end module activation_timing
