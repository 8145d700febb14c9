!> The activation routines over many points, callable from C, for comparison with numpy. Modes are the fastest axis.
module activation_c
  use, intrinsic :: iso_c_binding, only: c_char, c_int, c_double
  use aerosol_activation_arg, only: activate_modal_arg, activate_number_arg
  use aerosol_activation_head, only: kelvin_t, activated_fractions, read_kelvin
  use aerosol_activation_mapping, only: inverse_cube_root, emulator_inputs
  use aerosol_activation_mass, only: mass_from_number
  implicit none
  private
  public :: c_activate_modal, c_activate_prescribed, c_activate_number, c_inverse_cube_root, c_emulator_inputs
  public :: c_activated_fractions, c_mass_from_number

contains

  subroutine c_activate_modal(n, nmode, w, wmax, t, rho, na, volume, hygro, fn, fm, fluxn, fluxm, full, smax, &
      needs_first_mode) bind(c)
    integer(c_int), value :: n, nmode, needs_first_mode
    real(c_double), value :: wmax
    real(c_double), intent(in) :: w(n), t(n), rho(n), na(nmode, n), volume(nmode, n), hygro(nmode, n)
    real(c_double), intent(out) :: fn(nmode, n), fm(nmode, n), fluxn(nmode, n), fluxm(nmode, n), full(n), smax(n)
    integer :: i

    do i = 1, n
      call activate_modal_arg(w(i), wmax, t(i), rho(i), na(:, i), nmode, volume(:, i), hygro(:, i), &
        fn(:, i), fm(:, i), fluxn(:, i), fluxm(:, i), full(i), smax_out=smax(i), needs_first_mode=needs_first_mode /= 0)
    end do
  end subroutine c_activate_modal

  subroutine c_activate_prescribed(n, nmode, prescribed, w, t, rho, na, volume, hygro, fn, fm) bind(c)
    integer(c_int), value :: n, nmode
    real(c_double), value :: prescribed
    real(c_double), intent(in) :: w(n), t(n), rho(n), na(nmode, n), volume(nmode, n), hygro(nmode, n)
    real(c_double), intent(out) :: fn(nmode, n), fm(nmode, n)
    real(c_double) :: fluxn(nmode), fluxm(nmode), full
    integer :: i

    do i = 1, n
      call activate_modal_arg(w(i), 10._c_double, t(i), rho(i), na(:, i), nmode, volume(:, i), hygro(:, i), &
        fn(:, i), fm(:, i), fluxn, fluxm, full, smax_prescribed=prescribed)
    end do
  end subroutine c_activate_prescribed

  subroutine c_activate_number(pcols, ncol, w, t, rho, na, volume, hygro, fn) bind(c)
    integer(c_int), value :: pcols, ncol
    real(c_double), intent(in) :: w(pcols), t(pcols), rho(pcols), na(pcols, 4), volume(pcols, 4), hygro(pcols, 4)
    real(c_double), intent(inout) :: fn(pcols, 4)

    call activate_number_arg(pcols, ncol, w, t, rho, na, volume, hygro, fn)
  end subroutine c_activate_number

  subroutine c_inverse_cube_root(n, x, z) bind(c)
    integer(c_int), value :: n
    real(c_double), intent(in) :: x(n)
    real(c_double), intent(out) :: z(n)

    z = inverse_cube_root(x)
  end subroutine c_inverse_cube_root

  subroutine c_emulator_inputs(pcols, pver, first, ncol, level, t, rho, w, rh, na, volume, hygro, column, offset, &
      ldx, num_inputs, x) bind(c)
    integer(c_int), value :: pcols, pver, first, ncol, level, offset, ldx, num_inputs
    real(c_double), intent(in) :: t(pcols, pver), rho(pcols, pver), w(pcols, pver), rh(pcols, pver)
    real(c_double), intent(in) :: na(pcols, pver, 4), volume(pcols, pver, 4), hygro(pcols, pver, 4)
    integer(c_int), intent(in) :: column(16)
    real(c_double), intent(inout) :: x(ldx, num_inputs)

    call emulator_inputs(pcols, pver, first, ncol, level, t, rho, w, rh, na, volume, hygro, column, offset, ldx, x)
  end subroutine c_emulator_inputs

  !> `head` is the metadata entry of a model file, `size` characters; status 1: it was refused.
  subroutine c_activated_fractions(size, head, ld, ncol, ln_smax, tair, rh, r_aer, kappa, fn, fm, status) bind(c)
    integer(c_int), value :: size, ld, ncol
    character(kind=c_char), intent(in) :: head(size)
    real(c_double), intent(in) :: ln_smax(ld), tair(ld), rh(ld), r_aer(ld, 4), kappa(ld, 4)
    real(c_double), intent(inout) :: fn(ld, 4), fm(ld, 4)
    integer(c_int), intent(out) :: status
    character(len=size) :: text
    character(len=:), allocatable :: errmsg
    type(kelvin_t) :: kelvin
    integer :: i

    do i = 1, size
      text(i:i) = head(i)
    end do
    call read_kelvin(text, kelvin, errmsg)
    status = merge(1, 0, allocated(errmsg))
    if (status == 0) call activated_fractions(kelvin, ld, ncol, ln_smax, tair, rh, r_aer, kappa, fn, fm)
  end subroutine c_activated_fractions

  subroutine c_mass_from_number(n, fn, fm) bind(c)
    integer(c_int), value :: n
    real(c_double), intent(in) :: fn(n, 4)
    real(c_double), intent(out) :: fm(n, 4)

    call mass_from_number(n, fn, fm)
  end subroutine c_mass_from_number
end module activation_c
