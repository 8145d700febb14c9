!> What the routines for one point and for many have in common: fn and fm of points side by side, by the scheme that was
!! chosen at start; and which points are outside of what the emulator was trained on.
!!
!! Work space is the caller's, so that nothing is allocated: gfortran puts automatic arrays on the heap.
module aerosol_activation_evaluation
  use aerosol_activation_arg, only: activate_modal_arg
  use aerosol_activation_connection, only: connection_t, tair_at => tair, rh_at => rh, number_at => number, &
    radius_at => radius, kappa_at => kappa
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_counters, only: activation_counters
  use aerosol_activation_head, only: activated_fractions
  use aerosol_activation_mapping, only: emulator_inputs, emulator_inputs_of_point, num_known_inputs
  use aerosol_activation_mass, only: mass_from_number
  use aerosol_activation_nan, only: is_nan
  use libemulator, only: emulator_model
  implicit none
  private
  public :: settings_t, evaluate
  public :: w, tair, rhoair, rh, na, volume, hygro, num_state, fn, fm, fn_difference, fm_difference, num_results, num_work

  !> Columns of `state`, SI; of what is per mode, the column before the first.
  integer, parameter :: w = 1, tair = 2, rhoair = 3, rh = 4, na = 4, volume = 8, hygro = 12, num_state = 16
  !> Columns before the first of `results`.
  integer, parameter :: fn = 0, fm = 4, fn_difference = 8, fm_difference = 12, num_results = 16
  !> Columns of work space, beside the model's outputs: known inputs, the model's inputs, and four of the guard.
  integer, parameter :: num_work = 2*num_known_inputs + 4

  real(r8), parameter :: absent_mode = 1.e-39_r8  !! m-3 and m3 m-3
  real(r8), parameter :: inert_kappa = 1.e-10_r8
  real(r8), parameter :: most_added = 0.1_r8      !! of all particles, where modes are scarcer than in training
  integer, parameter :: every_input(num_known_inputs) = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]

  type :: settings_t
    logical :: runs_emulator = .false., runs_arg = .true.
    logical :: gives_emulator = .false.  !! whose numbers the host gets
    logical :: fallback = .true.         !! ARG outside of the training range
    real(r8) :: rh_if_absent = 1._r8
  end type settings_t

contains

  !> fn and fm of points at each of which something activates, side by side. Without a model, all is ARG's.
  recursive subroutine evaluate(model, connection, settings, n, nmode, needs_first_mode, gives_differences, wmaxf, state, &
      results, work, y, is_outside, stat, message, smax_prescribed, counters)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(in) :: connection
    type(settings_t), intent(in) :: settings
    integer, intent(in) :: n, nmode
    logical, intent(in) :: needs_first_mode
    logical, intent(in) :: gives_differences             !! or they are left as they are
    real(r8), intent(in) :: wmaxf
    real(r8), intent(in) :: state(n, num_state)          !! modes beyond nmode: 0
    real(r8), intent(inout) :: results(n, num_results)
    real(r8), intent(inout) :: work(n, num_work), y(n, connection%num_outputs)
    logical, intent(inout) :: is_outside(n)
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: message
    real(r8), intent(in), optional :: smax_prescribed
    type(activation_counters), intent(inout), optional :: counters
    logical :: runs_emulator, runs_arg
    integer :: i, num_outside

    stat = 0
    runs_emulator = settings%runs_emulator .and. .not. present(smax_prescribed)
    runs_arg = settings%runs_arg .or. .not. runs_emulator
    num_outside = n
    if (runs_emulator) then
      call emulate(model, connection, settings%fallback, n, state, results, work, y, is_outside, stat, message, counters)
      if (stat /= 0) return
      num_outside = count(is_outside(:n))
    else
      is_outside = .true.
    end if
    if (gives_differences) results(:, fn_difference + 1:) = 0._r8
    if (runs_arg .or. num_outside > 0) then
      do i = 1, n
        if (runs_arg .or. is_outside(i)) call by_arg(i)
      end do
    end if
    if (.not. present(counters)) return
    if (present(smax_prescribed)) then
      counters%prescribed = counters%prescribed + n
    else if (.not. runs_emulator) then
      counters%arg = counters%arg + n
    else
      counters%emulated = counters%emulated + (n - num_outside)
      counters%fallbacks = counters%fallbacks + num_outside
    end if

  contains

    !> ARG in the place of the emulator, or beside it.
    subroutine by_arg(i)
      integer, intent(in) :: i
      real(r8), dimension(num_modes) :: na_i, volume_i, hygro_i, fn_i, fm_i, fluxn_i, fluxm_i
      real(r8) :: flux_fullact_i

      na_i = state(i, na + 1:na + num_modes)
      volume_i = state(i, volume + 1:volume + num_modes)
      hygro_i = state(i, hygro + 1:hygro + num_modes)
      fn_i = 0._r8
      fm_i = 0._r8
      call activate_modal_arg(state(i, w), wmaxf, state(i, tair), state(i, rhoair), na_i, nmode, volume_i, hygro_i, &
        fn_i, fm_i, fluxn_i, fluxm_i, flux_fullact_i, smax_prescribed, needs_first_mode=needs_first_mode)
      if (.not. is_outside(i)) then
        if (gives_differences) then
          results(i, fn_difference + 1:fn_difference + num_modes) = results(i, fn + 1:fn + num_modes) - fn_i
          results(i, fm_difference + 1:fm_difference + num_modes) = results(i, fm + 1:fm + num_modes) - fm_i
        end if
        if (settings%gives_emulator) return
      end if
      results(i, fn + 1:fn + num_modes) = fn_i
      results(i, fm + 1:fm + num_modes) = fm_i
    end subroutine by_arg
  end subroutine evaluate

  !> The emulator's fn and fm, and where it must not be asked: there they mean nothing.
  recursive subroutine emulate(model, c, fallback, n, state, results, work, y, is_outside, stat, message, counters)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(in) :: c
    logical, intent(in) :: fallback
    integer, intent(in) :: n
    real(r8), intent(in) :: state(n, num_state)
    real(r8), intent(inout) :: results(n, num_results), work(n, num_work), y(n, c%num_outputs)
    logical, intent(inout) :: is_outside(n)
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: message
    type(activation_counters), intent(inout), optional :: counters
    integer, parameter :: known = 0, x = num_known_inputs  ! columns of work before the first
    integer :: i, m

    if (n == 1) then
      call inputs_of_point(c, fallback, state, work, work(1, x + 1), is_outside)
    else
      call emulator_inputs(n, 1, 1, n, 1, state(:, tair), state(:, rhoair), state(:, w), state(:, rh), &
        state(:, na + 1:na + num_modes), state(:, volume + 1:volume + num_modes), state(:, hygro + 1:hygro + num_modes), &
        every_input, 0, n, work)
      call guard(c, fallback, n, state(:, na + 1:na + num_modes), state(:, volume + 1:volume + num_modes), &
        work(:, known + 1:known + num_known_inputs), work(:, x + 1:x + c%num_inputs), work(:, num_work - 3), &
        work(:, num_work - 2), work(:, num_work - 1), work(:, num_work), is_outside)
    end if
    if (present(counters)) call count_beyond(c, n, work(:, known + 1:known + num_known_inputs), counters)
    stat = 0
    if (all(is_outside)) return
    call model%infer(work(:, x + 1:x + c%num_inputs), y, ncol=n, stat=stat, errmsg=message)
    if (stat /= 0) return
    if (c%ln_smax > 0) then
      do i = 1, n
        work(i, known + rh_at) = min(max(work(i, known + rh_at), c%lowest(rh_at)), c%highest(rh_at))
      end do
      call activated_fractions(c%kelvin, n, n, y(:, c%ln_smax), work(:, known + tair_at), work(:, known + rh_at), &
        work(:, known + radius_at + 1:known + radius_at + num_modes), &
        work(:, known + kappa_at + 1:known + kappa_at + num_modes), results(:, fn + 1:fn + num_modes), &
        results(:, fm + 1:fm + num_modes))
    else
      do m = 1, num_modes
        do i = 1, n
          results(i, fn + m) = min(max(y(i, c%fn(m)), 0._r8), 1._r8)
        end do
      end do
      call mass_from_number(n, results(1, fn + 1), results(1, fm + 1))
    end if
    do m = 1, num_modes
      do i = 1, n
        if (state(i, hygro + m) > inert_kappa .and. state(i, na + m) > absent_mode &
          .and. state(i, volume + m) > absent_mode) cycle
        results(i, fn + m) = 0._r8
        results(i, fm + m) = 0._r8
      end do
    end do
  end subroutine emulate

  !> Which points are outside; and the model's inputs `x`, each within its range.
  pure recursive subroutine guard(c, fallback, n, na, volume, known, x, added, total, misses, sums, is_outside)
    type(connection_t), intent(in) :: c
    logical, intent(in) :: fallback
    integer, intent(in) :: n
    real(r8), dimension(n, num_modes), intent(in) :: na, volume
    real(r8), intent(inout) :: known(n, num_known_inputs)  !! absent modes get a number, radius and kappa
    real(r8), intent(inout) :: x(n, c%num_inputs)
    real(r8), intent(inout) :: added(n), total(n)          !! work space: cm-3
    real(r8), intent(inout) :: misses(n), sums(n)          !! work space: inputs beyond their range, real to vectorise; sums
    logical, intent(inout) :: is_outside(n)
    real(r8) :: value, least, largest, lowest, highest
    integer :: i, j, m

    added = 0._r8
    total = 0._r8
    do m = 1, num_modes
      do i = 1, n
        if (na(i, m) > absent_mode .and. volume(i, m) > absent_mode) cycle
        if (is_nan(na(i, m)) .or. is_nan(volume(i, m))) cycle  ! not absent: NaN stays, is found below and counted
        call put_absent(c, m, known(i, number_at + m), known(i, radius_at + m), known(i, kappa_at + m))
      end do
      lowest = c%lowest(number_at + m)
      do i = 1, n
        added(i) = added(i) + max(lowest - known(i, number_at + m), 0._r8)
        total(i) = total(i) + known(i, number_at + m)
      end do
    end do
    misses = 0._r8
    sums = 0._r8
    do j = 1, num_known_inputs
      least = c%least(j)
      largest = c%largest(j)
      do i = 1, n
        value = known(i, j)
        misses(i) = misses(i) + merge(0._r8, 1._r8, value >= least .and. value <= largest)
        sums(i) = sums(i) + value
      end do
      if (c%input(j) == 0) cycle
      lowest = c%lowest(j)
      highest = c%highest(j)
      do i = 1, n
        x(i, c%input(j)) = min(max(known(i, j), lowest), highest)
      end do
    end do
    do i = 1, n
      ! NaN of any input is in the sum: comparisons do not tell under fast math
      is_outside(i) = misses(i) > 0._r8 .or. is_nan(sums(i)) .or. (fallback .and. added(i) > most_added*total(i))
    end do
  end subroutine guard

  !> The inputs of one point, side by side, and what `guard` makes of them.
  pure recursive subroutine inputs_of_point(c, fallback, state, known, x, is_outside)
    type(connection_t), intent(in) :: c
    logical, intent(in) :: fallback
    real(r8), intent(in) :: state(num_state)
    real(r8), intent(inout) :: known(num_known_inputs)
    real(r8), intent(inout) :: x(c%num_inputs)
    logical, intent(inout) :: is_outside(1)
    real(r8) :: added, total, half(num_known_inputs/2)
    logical :: is_inside
    integer :: j, m

    call emulator_inputs_of_point(state(tair), state(rhoair), state(w), state(rh), state(na + 1:na + num_modes), &
      state(volume + 1:volume + num_modes), state(hygro + 1:hygro + num_modes), known)
    added = 0._r8
    total = 0._r8
    do m = 1, num_modes
      if (.not. (state(na + m) > absent_mode .and. state(volume + m) > absent_mode)) then
        if (.not. (is_nan(state(na + m)) .or. is_nan(state(volume + m)))) &
          call put_absent(c, m, known(number_at + m), known(radius_at + m), known(kappa_at + m))
      end if
      added = added + max(c%lowest(number_at + m) - known(number_at + m), 0._r8)
      total = total + known(number_at + m)
    end do
    half = known(:num_known_inputs/2) + known(num_known_inputs/2 + 1:)
    is_inside = all(known >= c%least .and. known <= c%largest) .and. .not. is_nan(sum(half)) &
      .and. .not. (fallback .and. added > most_added*total)
    do j = 1, num_known_inputs
      if (c%input(j) > 0) x(c%input(j)) = min(max(known(j), c%lowest(j)), c%highest(j))
    end do
    is_outside(1) = .not. is_inside
  end subroutine inputs_of_point

  !> What stands for a mode that is absent: none of the smallest and least soluble particles.
  elemental subroutine put_absent(c, m, number, radius, kappa)
    type(connection_t), intent(in) :: c
    integer, intent(in) :: m
    real(r8), intent(inout) :: number, radius, kappa

    number = 0._r8
    radius = max(c%lowest(radius_at + m), 0._r8)
    kappa = max(c%lowest(kappa_at + m), 0._r8)
  end subroutine put_absent

  !> Inputs beyond their training range by more than the margin, or NaN.
  pure recursive subroutine count_beyond(c, n, known, counters)
    type(connection_t), intent(in) :: c
    integer, intent(in) :: n
    real(r8), intent(in) :: known(n, num_known_inputs)
    type(activation_counters), intent(inout) :: counters
    integer :: j

    do j = 1, num_known_inputs
      counters%low(j) = counters%low(j) + count(known(:, j) < c%low(j))
      counters%high(j) = counters%high(j) + count(known(:, j) > c%high(j))
      counters%nan(j) = counters%nan(j) + count(is_nan(known(:, j)))
    end do
  end subroutine count_beyond
end module aerosol_activation_evaluation
