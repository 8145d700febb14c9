!> What activation costs per point, without an emulator: ARG as E3SM calls it, ARG for number only, the output head
!! that follows a network (fn and fm), and fm from the fn of a network without. Prints nanoseconds as JSON; one thread,
!! calls of 16 points, median of 200 passes.
program activation_cost
  use, intrinsic :: iso_fortran_env, only: int64
  use activation_timing, only: clock_ns, median
  use aerosol_activation_arg, only: activate_modal_arg, activate_number_arg, default_max_updraft
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_head, only: kelvin_t, activated_fractions
  use aerosol_activation_mapping, only: mode_volume
  use aerosol_activation_mass, only: mass_from_number
  implicit none

  integer, parameter :: ncol = 16, num_calls = 64, num_passes = 200
  !> Of the number-median dry radii of the four modes, um (MAM4's bounds).
  real(r8), parameter :: least_radius(num_modes) = [0.02675_r8, 0.00435_r8, 0.5_r8, 0.005_r8]
  real(r8), parameter :: largest_radius(num_modes) = [0.22_r8, 0.026_r8, 2._r8, 0.05_r8]
  type(kelvin_t) :: kelvin
  real(r8), dimension(ncol, num_calls) :: tair, rho, rh, w, ln_smax
  real(r8), dimension(ncol, num_modes, num_calls) :: na, radius, volume, kappa, fn, fm
  real(r8) :: modal(num_passes), number(num_passes), head(num_passes), mass(num_passes), total
  integer :: pass, m

  call draw_states()
  total = 0._r8
  do pass = 1, num_passes  ! they take turns, so that a slow moment of the machine hits all
    modal(pass) = timed_modal()
    number(pass) = timed_number()
    head(pass) = timed_head()
    mass(pass) = timed_mass()
  end do
  print '(4(a, f0.1), a)', '{"arg": ', median(modal), ', "arg_number": ', median(number), ', "head": ', median(head), &
    ', "mass_from_number": ', median(mass), '}'
  if (total /= total) error stop 'a fraction is not a number'

contains

  subroutine draw_states()
    integer, parameter :: seed(64) = 12345

    call random_seed(put=seed)
    call random_number(tair)
    tair = 240._r8 + 60._r8*tair
    call random_number(rho)
    rho = 0.6_r8 + 0.6_r8*rho
    call random_number(rh)
    rh = 0.7_r8 + 0.3_r8*rh
    call random_number(w)
    w = 0.05_r8*200._r8**w
    call random_number(ln_smax)
    ln_smax = log(1.e-3_r8) + 3._r8*ln_smax
    call random_number(na)
    na = 1.e6_r8*1000._r8**na
    call random_number(radius)
    call random_number(kappa)
    kappa = 1.e-3_r8*1000._r8**kappa
    do m = 1, num_modes
      radius(:, m, :) = least_radius(m)*(largest_radius(m)/least_radius(m))**radius(:, m, :)
      volume(:, m, :) = mode_volume(m, na(:, m, :), 1.e-6_r8*radius(:, m, :))
    end do
    fn = 0._r8
    fm = 0._r8
  end subroutine draw_states

  real(r8) function timed_modal() result(ns)
    real(r8), dimension(num_modes) :: na_i, volume_i, kappa_i, fn_i, fm_i, fluxn, fluxm
    real(r8) :: flux_fullact
    integer(int64) :: start
    integer :: c, i

    start = clock_ns()
    do c = 1, num_calls
      do i = 1, ncol
        na_i = na(i, :, c)
        volume_i = volume(i, :, c)
        kappa_i = kappa(i, :, c)
        call activate_modal_arg(w(i, c), default_max_updraft, tair(i, c), rho(i, c), na_i, num_modes, volume_i, kappa_i, &
          fn_i, fm_i, fluxn, fluxm, flux_fullact)
        fn(i, :, c) = fn_i
        fm(i, :, c) = fm_i
      end do
    end do
    ns = per_point(start)
  end function timed_modal

  real(r8) function timed_number() result(ns)
    integer(int64) :: start
    integer :: c

    start = clock_ns()
    do c = 1, num_calls
      call activate_number_arg(ncol, ncol, w(:, c), tair(:, c), rho(:, c), na(:, :, c), volume(:, :, c), kappa(:, :, c), &
        fn(:, :, c))
    end do
    ns = per_point(start)
  end function timed_number

  real(r8) function timed_head() result(ns)
    integer(int64) :: start
    integer :: c

    start = clock_ns()
    do c = 1, num_calls
      call activated_fractions(kelvin, ncol, ncol, ln_smax(:, c), tair(:, c), rh(:, c), radius(:, :, c), kappa(:, :, c), &
        fn(:, :, c), fm(:, :, c))
    end do
    ns = per_point(start)
  end function timed_head

  !> Of the fn that `timed_head` has left.
  real(r8) function timed_mass() result(ns)
    integer(int64) :: start
    integer :: c

    start = clock_ns()
    do c = 1, num_calls
      call mass_from_number(ncol, fn(:, :, c), fm(:, :, c))
    end do
    ns = per_point(start)
  end function timed_mass

  real(r8) function per_point(start)
    integer(int64), intent(in) :: start

    per_point = real(clock_ns() - start, r8)/(ncol*num_calls)
    total = total + fn(1, 1, 1) + fm(ncol, num_modes, num_calls)  ! what nobody reads, a compiler may leave out
  end function per_point
end program activation_cost
