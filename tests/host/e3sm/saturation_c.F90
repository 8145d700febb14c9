!> `qsat` over many points, callable from C.
module saturation_c
  use, intrinsic :: iso_c_binding, only: c_double, c_int
  use wv_saturation, only: qsat, wv_sat_init
  implicit none
  private
  public :: c_qsat

contains

  subroutine c_qsat(n, t, p, es, qs) bind(c)
    integer(c_int), value :: n
    real(c_double), intent(in) :: t(n), p(n)
    real(c_double), intent(out) :: es(n), qs(n)

    call wv_sat_init()
    call qsat(t, p, es, qs)
  end subroutine c_qsat
end module saturation_c
