!> Calls physics: passes over all chunks, threads over chunks as E3SM has them, each pass timed.
module host_run
  use, intrinsic :: iso_fortran_env, only: int64
  use activation_timing, only: clock_ns, median
  use aerosol_activation_constants, only: r8
  use host_config, only: config_t
  use host_physics, only: connection_t, activate_by_arg, activate_by_arg_number_only, activate_by_emulator
  use host_state, only: chunk_t
  use libemulator, only: emulator_model
  implicit none
  private
  public :: timing_t, run_physics

  !> Nanoseconds of thread time per point, median over the passes; NaN-free: negative where the scheme did not run.
  type :: timing_t
    real(r8) :: arg = -1._r8              !! every output of activate_modal, one call per point
    real(r8) :: arg_number_only = -1._r8  !! fn only, one call per level
    real(r8) :: emulator = -1._r8
    integer :: threads = 1
    integer(int64) :: points = 0          !! points of one pass
  end type timing_t

contains

  subroutine run_physics(config, model, connection, chunks, timing, errmsg)
    type(config_t), intent(in) :: config
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(in) :: connection
    type(chunk_t), intent(inout) :: chunks(:)
    type(timing_t), intent(out) :: timing
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8), dimension(config%repeats) :: arg_ns, number_only_ns, emulator_ns
    integer :: pass

    timing%threads = thread_count()
    timing%points = int(sum(chunks%ncol), int64)*config%pver
    ! Pass 0 warms caches and page tables up. The schemes take turns, so that a slow moment of the machine hits all.
    do pass = 0, config%repeats
      if (config%runs_arg()) then
        number_only_ns(max(1, pass)) = arg_pass(chunks, timing, number_only=.true.)
        arg_ns(max(1, pass)) = arg_pass(chunks, timing, number_only=.false.)
      end if
      if (config%runs_emulator()) then
        emulator_ns(max(1, pass)) = emulator_pass(model, connection, config%batching, chunks, timing, errmsg)
        if (allocated(errmsg)) return
      end if
    end do
    if (config%runs_arg()) then
      timing%arg = median(arg_ns)
      timing%arg_number_only = median(number_only_ns)
    end if
    if (config%runs_emulator()) timing%emulator = median(emulator_ns)
  end subroutine run_physics

  function arg_pass(chunks, timing, number_only) result(ns)
    type(chunk_t), intent(inout) :: chunks(:)
    type(timing_t), intent(in) :: timing
    logical, intent(in) :: number_only
    real(r8) :: ns
    integer(int64) :: start
    integer :: c

    start = clock_ns()
    !$omp parallel do schedule(static, 1)
    do c = 1, size(chunks)
      if (number_only) then
        call activate_by_arg_number_only(chunks(c))
      else
        call activate_by_arg(chunks(c))
      end if
    end do
    !$omp end parallel do
    ns = real(clock_ns() - start, r8)*timing%threads/real(timing%points, r8)
  end function arg_pass

  function emulator_pass(model, connection, batching, chunks, timing, errmsg) result(ns)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(in) :: connection
    character(len=*), intent(in) :: batching
    type(chunk_t), intent(inout) :: chunks(:)
    type(timing_t), intent(in) :: timing
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8) :: ns
    integer(int64) :: start
    integer :: c

    start = clock_ns()
    !$omp parallel do schedule(static, 1)
    do c = 1, size(chunks)
      call emulator_chunk(model, connection, batching, chunks(c), errmsg)
    end do
    !$omp end parallel do
    ns = real(clock_ns() - start, r8)*timing%threads/real(timing%points, r8)
  end function emulator_pass

  !> One chunk; the first failure of any thread is kept in `errmsg`, which all threads share.
  subroutine emulator_chunk(model, connection, batching, chunk, errmsg)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(in) :: connection
    character(len=*), intent(in) :: batching
    type(chunk_t), intent(inout) :: chunk
    character(len=:), allocatable, intent(inout) :: errmsg
    character(len=:), allocatable :: message
    integer :: stat

    call activate_by_emulator(model, connection, batching, chunk, stat, message)
    if (stat == 0) return
    !$omp critical (keep_first_error)
    if (.not. allocated(errmsg)) errmsg = message
    !$omp end critical (keep_first_error)
  end subroutine emulator_chunk

  integer function thread_count()
    !$ use omp_lib, only: omp_get_max_threads

    thread_count = 1
    !$ thread_count = omp_get_max_threads()
  end function thread_count
end module host_run
