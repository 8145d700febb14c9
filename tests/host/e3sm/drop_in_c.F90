!> The drop-in, callable from C: what it evaluates, and its per-point form under E3SM's current arguments.
module drop_in_c
  use, intrinsic :: iso_c_binding, only: c_char, c_double, c_int
  use aerosol_activation_emulator, only: activate_modal_emulator, activation_emulator, use_activation_emulator
  implicit none
  private
  public :: c_use_model, c_activate_modal_drop_in

contains

  !> Of no name: ARG, as before the first call. The status of libemulator.h.
  integer(c_int) function c_use_model(length, name) result(status) bind(c)
    integer(c_int), value :: length
    character(kind=c_char), intent(in) :: name(length)
    type(activation_emulator) :: emulator
    character(len=length) :: path
    character(len=:), allocatable :: errmsg
    integer :: i

    do i = 1, length
      path(i:i) = name(i)
    end do
    status = 0
    if (length > 0) call emulator%connect(path, status, errmsg)
    call use_activation_emulator(emulator)
  end function c_use_model

  !> With `prescribed` 0 the supersaturation of `smax` is not passed on.
  subroutine c_activate_modal_drop_in(n, nmode, w, sigw, wdiab, wmin, wmax, t, rho, na, volume, hygro, prescribed, &
      smax, fn, fm, fluxn, fluxm, full) bind(c)
    integer(c_int), value :: n, nmode, prescribed
    real(c_double), value :: sigw, wmin, wmax
    real(c_double), intent(in) :: w(n), wdiab(n), t(n), rho(n), smax(n)
    real(c_double), intent(in) :: na(nmode, n), volume(nmode, n), hygro(nmode, n)
    real(c_double), intent(out) :: fn(nmode, n), fm(nmode, n), fluxn(nmode, n), fluxm(nmode, n), full(n)
    integer :: i

    do i = 1, n
      if (prescribed /= 0) then
        call activate_modal_emulator(w(i), sigw, wdiab(i), wmin, wmax, t(i), rho(i), na(:, i), nmode, volume(:, i), &
          hygro(:, i), fn(:, i), fm(:, i), fluxn(:, i), fluxm(:, i), full(i), smax(i))
      else
        call activate_modal_emulator(w(i), sigw, wdiab(i), wmin, wmax, t(i), rho(i), na(:, i), nmode, volume(:, i), &
          hygro(:, i), fn(:, i), fm(:, i), fluxn(:, i), fluxm(:, i), full(i))
      end if
    end do
  end subroutine c_activate_modal_drop_in
end module drop_in_c
