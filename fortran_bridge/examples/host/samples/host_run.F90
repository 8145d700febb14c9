!> Calls physics: passes over all chunks, threads over chunks as E3SM has them, each pass timed.
module host_run
  use, intrinsic :: iso_fortran_env, only: int64
  use activation_timing, only: clock_ns, median
  use aerosol_activation_constants, only: r8
  use aerosol_activation_emulator, only: activation_counters
  use host_config, only: config_t
  use host_physics, only: activate_chunk
  use host_scheme, only: scheme_t
  use host_state, only: chunk_t
  implicit none
  private
  public :: run_physics, num_threads

contains

  !> Fills answers, counters and times of each scheme. On failure `errmsg` is allocated.
  subroutine run_physics(config, chunks, schemes, errmsg)
    type(config_t), intent(in) :: config
    type(chunk_t), intent(in) :: chunks(:)
    type(scheme_t), intent(inout) :: schemes(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8) :: ns(0:config%repeats, size(schemes))
    integer :: c, pass, s

    do s = 1, size(schemes)
      allocate(schemes(s)%answers(size(chunks)))
      do c = 1, size(chunks)
        call schemes(s)%answers(c)%prepare(config%pcols, config%pver)
      end do
    end do
    ! Pass 0 counts, and warms caches and page tables up. The schemes take turns, so that a slow moment of the machine
    ! hits all.
    do pass = 0, config%repeats
      do s = 1, size(schemes)
        call run_pass(trim(config%batching), chunks, pass == 0, schemes(s), ns(pass, s), errmsg)
        if (allocated(errmsg)) return
      end do
    end do
    do s = 1, size(schemes)
      schemes(s)%ns_per_point = median(ns(1:, s))*num_threads()/real(int(sum(chunks%ncol), int64)*config%pver, r8)
    end do
  end subroutine run_physics

  subroutine run_pass(batching, chunks, counts, scheme, ns, errmsg)
    character(len=*), intent(in) :: batching
    type(chunk_t), intent(in) :: chunks(:)
    logical, intent(in) :: counts
    type(scheme_t), intent(inout) :: scheme
    real(r8), intent(out) :: ns
    character(len=:), allocatable, intent(inout) :: errmsg
    type(activation_counters) :: counters(size(chunks))
    integer(int64) :: start
    integer :: c

    start = clock_ns()
    !$omp parallel do schedule(static, 1)
    do c = 1, size(chunks)
      call run_chunk(batching, chunks(c), counts, scheme, c, counters(c), errmsg)
    end do
    !$omp end parallel do
    ns = real(clock_ns() - start, r8)
    do c = 1, size(chunks)
      call scheme%counters%add(counters(c))
    end do
  end subroutine run_pass

  !> Chunk `c`; the first failure of any thread is kept in `errmsg`, which all threads share.
  subroutine run_chunk(batching, chunk, counts, scheme, c, counters, errmsg)
    character(len=*), intent(in) :: batching
    type(chunk_t), intent(in) :: chunk
    logical, intent(in) :: counts
    type(scheme_t), intent(inout) :: scheme
    integer, intent(in) :: c
    type(activation_counters), intent(inout) :: counters
    character(len=:), allocatable, intent(inout) :: errmsg
    character(len=:), allocatable :: message
    integer :: stat

    if (counts) then
      call activate_chunk(scheme%by, batching, chunk, scheme%answers(c), stat, message, counters)
    else
      call activate_chunk(scheme%by, batching, chunk, scheme%answers(c), stat, message)
    end if
    if (stat == 0) return
    !$omp critical (keep_first_error)
    if (.not. allocated(errmsg)) errmsg = message
    !$omp end critical (keep_first_error)
  end subroutine run_chunk

  integer function num_threads()
    !$ use omp_lib, only: omp_get_max_threads

    num_threads = 1
    !$ num_threads = omp_get_max_threads()
  end function num_threads
end module host_run
