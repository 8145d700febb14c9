!> ARG of the activation example as the benchmark calls it: blocks of points held in the host's own arrays.
!!
!! `states` is (ncol, 16): w, t, rho, rh, then number, volume and hygroscopicity of four modes, SI. `x` holds the same
!! points as the emulators take them (ncol, 16): tair, pressure, rh, wbar, number, radius, kappa, in the units of the
!! samples files.
module arg_points
  use, intrinsic :: iso_c_binding, only: c_int
  use aerosol_activation_arg, only: activate_modal_arg, activate_number_arg, default_max_updraft
  use aerosol_activation_constants, only: r8, num_modes, gas_constant_dry_air
  use aerosol_activation_mapping, only: emulator_inputs, mode_volume, num_known_inputs
  implicit none
  private

contains

  !> What the host holds, from what the emulator takes. Not timed: a host has it.
  subroutine bench_arg_states(ncol, x, states) bind(c)
    integer(c_int), value :: ncol
    real(r8), intent(in) :: x(ncol, 16)
    real(r8), intent(out) :: states(ncol, 16)
    integer :: i, m

    do i = 1, ncol
      states(i, 1) = 0.01_r8*x(i, 4)
      states(i, 2) = x(i, 1)
      states(i, 3) = 100._r8*x(i, 2)/(gas_constant_dry_air*x(i, 1))
      states(i, 4) = x(i, 3)
      do m = 1, num_modes
        states(i, 4 + m) = 1.e6_r8*x(i, 4 + m)
        states(i, 8 + m) = mode_volume(m, states(i, 4 + m), 1.e-6_r8*x(i, 8 + m))
        states(i, 12 + m) = x(i, 12 + m)
      end do
    end do
  end subroutine bench_arg_states

  !> Activated fractions of number and nothing else: what the emulators give.
  subroutine bench_arg_number(ncol, states, fn) bind(c)
    integer(c_int), value :: ncol
    real(r8), intent(in) :: states(ncol, 16)
    real(r8), intent(inout) :: fn(ncol, num_modes)

    call activate_number_arg(ncol, ncol, states(:, 1), states(:, 2), states(:, 3), states(:, 5:8), states(:, 9:12), &
      states(:, 13:16), fn)
  end subroutine bench_arg_number

  !> Everything that the routine computes, a point at a time, as E3SM calls it: fn, fm, fluxn, fluxm.
  subroutine bench_arg_all(ncol, states, results) bind(c)
    integer(c_int), value :: ncol
    real(r8), intent(in) :: states(ncol, 16)
    real(r8), intent(inout) :: results(ncol, 4*num_modes)
    real(r8), dimension(num_modes) :: na, volume, hygro, fn, fm, fluxn, fluxm
    real(r8) :: flux_fullact
    integer :: i

    do i = 1, ncol
      na = states(i, 5:8)
      volume = states(i, 9:12)
      hygro = states(i, 13:16)
      call activate_modal_arg(states(i, 1), default_max_updraft, states(i, 2), states(i, 3), na, num_modes, volume, &
        hygro, fn, fm, fluxn, fluxm, flux_fullact)
      results(i, 1:4) = fn
      results(i, 5:8) = fm
      results(i, 9:12) = fluxn
      results(i, 13:16) = fluxm
    end do
  end subroutine bench_arg_all

  !> What a host adds to an emulator's cost: from its arrays to the emulator's inputs.
  subroutine bench_arg_mapping(ncol, states, x) bind(c)
    integer(c_int), value :: ncol
    real(r8), intent(in) :: states(ncol, 16)
    real(r8), intent(inout) :: x(ncol, 16)
    integer, parameter :: column(num_known_inputs) = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]

    call emulator_inputs(ncol, 1, 1, ncol, 1, states(:, 2), states(:, 3), states(:, 1), states(:, 4), states(:, 5:8), &
      states(:, 9:12), states(:, 13:16), column, 0, ncol, x)
  end subroutine bench_arg_mapping
end module arg_points
