!> Activation by a function that another program gives: scheme 'external'. How the parcel model itself drives the host.
module climate_external
  use, intrinsic :: iso_c_binding, only: c_double, c_int, c_int64_t, c_ptr
  implicit none
  private
  public :: external_activation

  abstract interface
    !> Activated fractions of gathered points; those without aerosol or updraft never come. Any number of threads call
    !! it at once. A point's result must not depend on how points are gathered. 0, or any other value on failure.
    integer(c_int) function external_activation(context, num_points, ld, w, tair, rhoair, rh, na, volume, hygro, &
        fn, fm) bind(C)
      import :: c_double, c_int, c_int64_t, c_ptr
      type(c_ptr), intent(in), value :: context               !! the giver's own
      integer(c_int64_t), intent(in), value :: num_points     !! rows that hold data
      integer(c_int64_t), intent(in), value :: ld             !! first extent of the arrays
      real(c_double), intent(in) :: w(ld), tair(ld)           !! updraft speed, m s-1; air temperature, K
      real(c_double), intent(in) :: rhoair(ld), rh(ld)        !! air density, kg m-3; relative humidity over liquid, 1
      real(c_double), intent(in) :: na(ld, 4), volume(ld, 4)  !! number, m-3; volume, m3 m-3
      real(c_double), intent(in) :: hygro(ld, 4)              !! hygroscopicity, 1
      real(c_double), intent(inout) :: fn(ld, 4), fm(ld, 4)   !! activated fraction of number and of mass, 1
    end function external_activation
  end interface
end module climate_external
