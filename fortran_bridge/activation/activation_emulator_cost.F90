!> What the drop-in costs per point beside ARG, for model files given as arguments: per point under the original's
!! arguments, and batched in calls of 1, 7, 16, 128 and 1,152 points. Prints nanoseconds as JSON, a line a model; one thread,
!! median of the passes, in which all take turns.
!!
!! States are drawn within the training ranges of the case study, so that every point is emulated (a line says how many).
program activation_emulator_cost
  use, intrinsic :: iso_fortran_env, only: error_unit, int64
  use activation_timing, only: clock_ns, median
  use aerosol_activation_arg, only: activate_modal_arg, default_max_updraft
  use aerosol_activation_constants, only: r8, num_modes, gas_constant_dry_air
  use aerosol_activation_emulator, only: activation_emulator, activation_counters, activate_modal_emulator, &
    use_activation_emulator
  use aerosol_activation_mapping, only: mode_volume
  implicit none

  integer, parameter :: num_points = 16*72, num_passes = 60, sizes(5) = [1, 7, 16, 128, 16*72]
  real(r8), parameter :: least(num_modes, 3) = reshape([1._r8, 1._r8, 1.e-3_r8, 0.01_r8, &
    0.0268_r8, 0.0044_r8, 0.5_r8, 0.0092_r8, 0.11_r8, 0.13_r8, 0.074_r8, 1.1e-10_r8], [num_modes, 3])
  real(r8), parameter :: largest(num_modes, 3) = reshape([4.9e3_r8, 2.9e4_r8, 19._r8, 2.9e3_r8, &
    0.21_r8, 0.0259_r8, 1.8_r8, 0.0499_r8, 0.99_r8, 0.87_r8, 1.1_r8, 0.099_r8], [num_modes, 3])
  real(r8), dimension(num_points) :: w, tair, rhoair, rh, flux_fullact
  real(r8), dimension(num_points, num_modes) :: na, volume, hygro, fn, fm
  real(r8), dimension(num_modes, num_points) :: na_p, volume_p, hygro_p, fn_p, fm_p, fluxn_p, fluxm_p
  real(r8) :: ns(3 + size(sizes), num_passes), total
  type(activation_emulator) :: emulator, not_connected
  type(activation_counters) :: counters
  character(len=1024) :: path
  character(len=:), allocatable :: errmsg
  integer :: argument, pass, k, stat

  call draw_states()
  total = 0._r8
  do argument = 1, command_argument_count()
    call get_command_argument(argument, path)
    call emulator%connect(trim(path), stat, errmsg)
    if (stat /= 0) then
      write(error_unit, '(3a)') trim(path), ': ', errmsg
      error stop 1
    end if
    counters = activation_counters()
    call emulator%activate(num_points, num_points, num_modes, w, default_max_updraft, tair, rhoair, na, volume, hygro, fn, &
      fm, stat, rh=rh, counters=counters)
    write(error_unit, '(2a, i0, a, i0, a)') emulator%describe(), ': ', counters%emulated, ' of ', num_points, ' points'
    do pass = 1, num_passes
      ns(1, pass) = timed_arg()
      call use_activation_emulator(not_connected)
      ns(2, pass) = timed_point()
      call use_activation_emulator(emulator)
      ns(3, pass) = timed_point()
      do k = 1, size(sizes)
        ns(3 + k, pass) = timed_batch(sizes(k))
      end do
    end do
    write(*, '(a, 3(a, f0.1))', advance='no') '{"model": "'//trim(path)//'"', ', "arg": ', median(ns(1, :)), &
      ', "not_connected": ', median(ns(2, :)), ', "point": ', median(ns(3, :))
    write(*, '(*(a, i0, a, f0.1))', advance='no') (', "', sizes(k), '": ', median(ns(3 + k, :)), k = 1, size(sizes))
    write(*, '(a)') '}'
  end do
  if (total /= total) error stop 'a fraction is not a number'

contains

  subroutine draw_states()
    integer, parameter :: seed(64) = 12345
    real(r8), allocatable :: modal(:, :, :), pressure(:)
    integer :: m, v

    allocate(modal(num_points, num_modes, 3), pressure(num_points))
    call random_seed(put=seed)
    call random_number(tair)
    tair = 236._r8 + 68._r8*tair
    call random_number(pressure)
    pressure = 4.05e4_r8 + 6.e4_r8*pressure
    rhoair = pressure/(gas_constant_dry_air*tair)
    call random_number(rh)
    rh = 0.7_r8 + 0.299_r8*rh
    call random_number(w)
    w = 0.06_r8*160._r8**w
    call random_number(modal)
    do v = 1, 3
      do m = 1, num_modes
        modal(:, m, v) = least(m, v)*(largest(m, v)/least(m, v))**modal(:, m, v)
      end do
    end do
    na = 1.e6_r8*modal(:, :, 1)
    hygro = modal(:, :, 3)
    do m = 1, num_modes
      volume(:, m) = mode_volume(m, na(:, m), 1.e-6_r8*modal(:, m, 2))
    end do
    na_p = transpose(na)
    volume_p = transpose(volume)
    hygro_p = transpose(hygro)
  end subroutine draw_states

  real(r8) function timed_arg()
    integer(int64) :: start
    integer :: i

    start = clock_ns()
    do i = 1, num_points
      call activate_modal_arg(w(i), default_max_updraft, tair(i), rhoair(i), na_p(:, i), num_modes, volume_p(:, i), &
        hygro_p(:, i), fn_p(:, i), fm_p(:, i), fluxn_p(:, i), fluxm_p(:, i), flux_fullact(i))
    end do
    timed_arg = per_point(start)
  end function timed_arg

  real(r8) function timed_point()
    integer(int64) :: start
    integer :: i

    start = clock_ns()
    do i = 1, num_points
      call activate_modal_emulator(w(i), 0._r8, 0._r8, 0._r8, default_max_updraft, tair(i), rhoair(i), na_p(:, i), num_modes, &
        volume_p(:, i), hygro_p(:, i), fn_p(:, i), fm_p(:, i), fluxn_p(:, i), fluxm_p(:, i), flux_fullact(i), rh=rh(i))
    end do
    timed_point = per_point(start)
  end function timed_point

  !> Calls of `ncol` points, each with arrays of their own, as a host has gathered them.
  real(r8) function timed_batch(ncol)
    integer, intent(in) :: ncol
    real(r8), allocatable, dimension(:, :) :: w_c, tair_c, rhoair_c, rh_c, full_c
    real(r8), allocatable, dimension(:, :, :) :: na_c, volume_c, hygro_c, fn_c, fm_c, fluxn_c, fluxm_c
    integer(int64) :: start
    integer :: c, m, num_calls, code

    num_calls = num_points/ncol
    w_c = reshape(w, [ncol, num_calls])
    tair_c = reshape(tair, [ncol, num_calls])
    rhoair_c = reshape(rhoair, [ncol, num_calls])
    rh_c = reshape(rh, [ncol, num_calls])
    allocate(full_c(ncol, num_calls), source=0._r8)
    allocate(na_c(ncol, num_modes, num_calls), volume_c(ncol, num_modes, num_calls), hygro_c(ncol, num_modes, num_calls))
    do m = 1, num_modes
      na_c(:, m, :) = reshape(na(:, m), [ncol, num_calls])
      volume_c(:, m, :) = reshape(volume(:, m), [ncol, num_calls])
      hygro_c(:, m, :) = reshape(hygro(:, m), [ncol, num_calls])
    end do
    fn_c = na_c
    fm_c = na_c
    fluxn_c = na_c
    fluxm_c = na_c
    start = clock_ns()
    do c = 1, num_calls
      call emulator%activate(ncol, ncol, num_modes, w_c(:, c), default_max_updraft, tair_c(:, c), rhoair_c(:, c), &
        na_c(:, :, c), volume_c(:, :, c), hygro_c(:, :, c), fn_c(:, :, c), fm_c(:, :, c), code, rh=rh_c(:, c), &
        fluxn=fluxn_c(:, :, c), fluxm=fluxm_c(:, :, c), flux_fullact=full_c(:, c))
    end do
    timed_batch = per_point(start)*num_points/(num_calls*ncol)
    total = total + fn_c(1, 1, 1)
  end function timed_batch

  real(r8) function per_point(start)
    integer(int64), intent(in) :: start

    per_point = real(clock_ns() - start, r8)/num_points
    total = total + fn(1, 1) + fm_p(num_modes, num_points)  ! what nobody reads, a compiler may leave out
  end function per_point
end program activation_emulator_cost
