!> MPI as the host uses it: ranks, one message for all, bytes from rank 0, columns to and from rank 0, sums of counters.
!!
!! Nothing here sums real numbers: a sum's rounding would depend on the number of ranks. Columns are gathered in the
!! order of the globe, and whoever needs a mean forms it there.
module climate_parallel
  use, intrinsic :: iso_fortran_env, only: int8, int64
  use aerosol_activation_constants, only: r8
  use climate_decomposition, only: decomposition_t
  use climate_state, only: chunk_t
  use mpi_f08
  implicit none
  private
  public :: parallel_t, start_parallel, finish_parallel, agree, broadcast_bytes, gather_levels, scatter_levels
  public :: gather_columns, scatter_columns, total, num_threads, most_threads

  logical :: started_here = .false.   !! else who started MPI ends it; the only variable, set before threads start

  type :: parallel_t
    integer :: rank = 0, size = 1
    logical :: is_root = .true.
  end type parallel_t

contains

  subroutine start_parallel(parallel, errmsg)
    type(parallel_t), intent(out) :: parallel
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: provided, threads
    logical :: started

    call MPI_Initialized(started)
    if (started) then
      call MPI_Query_thread(provided)
    else
      call MPI_Init_thread(MPI_THREAD_FUNNELED, provided)
      started_here = .true.
    end if
    call MPI_Comm_rank(MPI_COMM_WORLD, parallel%rank)
    call MPI_Comm_size(MPI_COMM_WORLD, parallel%size)
    parallel%is_root = parallel%rank == 0
    threads = num_threads()
    if (provided < MPI_THREAD_FUNNELED .and. threads > 1) &
      errmsg = 'MPI gives no support for threads (MPI_THREAD_FUNNELED), but OMP_NUM_THREADS is more than 1'
    call agree(parallel, errmsg)
  end subroutine start_parallel

  !> After the last run of this process.
  subroutine finish_parallel()
    if (started_here) call MPI_Finalize()
    started_here = .false.
  end subroutine finish_parallel

  !> Threads of this rank.
  integer function num_threads()
    !$ use omp_lib, only: omp_get_max_threads

    num_threads = 1
    !$ num_threads = omp_get_max_threads()
  end function num_threads

  !> If any rank has an error, all have that of the lowest such rank afterwards, so that all end together.
  subroutine agree(parallel, errmsg)
    type(parallel_t), intent(in) :: parallel
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: mine, first, length

    mine = merge(parallel%rank, parallel%size, allocated(errmsg))
    call MPI_Allreduce(mine, first, 1, MPI_INTEGER, MPI_MIN, MPI_COMM_WORLD)
    if (first == parallel%size) return
    length = 0
    if (parallel%rank == first) length = len(errmsg)
    call MPI_Bcast(length, 1, MPI_INTEGER, first, MPI_COMM_WORLD)
    if (parallel%rank /= first) then
      if (allocated(errmsg)) deallocate(errmsg)
      allocate(character(len=length) :: errmsg)
    end if
    call MPI_Bcast(errmsg, length, MPI_CHARACTER, first, MPI_COMM_WORLD)
  end subroutine agree

  !> Rank 0's bytes to all; the others' are allocated here.
  subroutine broadcast_bytes(parallel, bytes)
    type(parallel_t), intent(in) :: parallel
    integer(int8), allocatable, intent(inout) :: bytes(:)
    integer :: count

    count = 0
    if (parallel%is_root) count = size(bytes)
    call MPI_Bcast(count, 1, MPI_INTEGER, 0, MPI_COMM_WORLD)
    if (.not. parallel%is_root) allocate(bytes(count))
    call MPI_Bcast(bytes, count, MPI_BYTE, 0, MPI_COMM_WORLD)
  end subroutine broadcast_bytes

  !> Level field `field` of all columns, in the order of the globe, at rank 0: values (num_columns, num_levels).
  subroutine gather_levels(parallel, d, chunks, field, values)
    type(parallel_t), intent(in) :: parallel
    type(decomposition_t), intent(in) :: d
    type(chunk_t), intent(in) :: chunks(:)
    integer, intent(in) :: field
    real(r8), intent(inout) :: values(:,:)
    real(r8), allocatable :: mine(:,:), all_ranks(:,:)
    integer :: c, i, n, num_levels

    num_levels = size(values, 2)
    allocate(mine(num_levels, num_mine(parallel, d)), all_ranks(num_levels, merge(size(d%order), 0, parallel%is_root)))
    n = 0
    do c = 1, size(chunks)
      do i = 1, chunks(c)%ncol
        n = n + 1
        mine(:, n) = chunks(c)%levels(i, :, field)
      end do
    end do
    call MPI_Gatherv(mine, size(mine), MPI_DOUBLE_PRECISION, all_ranks, &
      num_levels*(d%first(2:) - d%first(:parallel%size)), num_levels*(d%first(:parallel%size) - 1), &
      MPI_DOUBLE_PRECISION, 0, MPI_COMM_WORLD)
    if (.not. parallel%is_root) return
    do n = 1, size(d%order)
      values(d%order(n), :) = all_ranks(:, n)
    end do
  end subroutine gather_levels

  !> The way back: rank 0's values to the chunks of all ranks.
  subroutine scatter_levels(parallel, d, values, field, chunks)
    type(parallel_t), intent(in) :: parallel
    type(decomposition_t), intent(in) :: d
    real(r8), intent(in) :: values(:,:)
    integer, intent(in) :: field
    type(chunk_t), intent(inout) :: chunks(:)
    real(r8), allocatable :: mine(:,:), all_ranks(:,:)
    integer :: c, i, n, num_levels

    num_levels = size(values, 2)
    allocate(mine(num_levels, num_mine(parallel, d)), all_ranks(num_levels, merge(size(d%order), 0, parallel%is_root)))
    if (parallel%is_root) then
      do n = 1, size(d%order)
        all_ranks(:, n) = values(d%order(n), :)
      end do
    end if
    call MPI_Scatterv(all_ranks, num_levels*(d%first(2:) - d%first(:parallel%size)), &
      num_levels*(d%first(:parallel%size) - 1), MPI_DOUBLE_PRECISION, mine, size(mine), MPI_DOUBLE_PRECISION, 0, &
      MPI_COMM_WORLD)
    n = 0
    do c = 1, size(chunks)
      do i = 1, chunks(c)%ncol
        n = n + 1
        chunks(c)%levels(i, :, field) = mine(:, n)
      end do
    end do
  end subroutine scatter_levels

  !> Field of columns `field` in the order of the globe, at rank 0: values (num_columns).
  subroutine gather_columns(parallel, d, chunks, field, values)
    type(parallel_t), intent(in) :: parallel
    type(decomposition_t), intent(in) :: d
    type(chunk_t), intent(in) :: chunks(:)
    integer, intent(in) :: field
    real(r8), intent(inout) :: values(:)
    real(r8), allocatable :: mine(:), all_ranks(:)
    integer :: c

    allocate(mine(0), all_ranks(merge(size(d%order), 0, parallel%is_root)))
    do c = 1, size(chunks)
      mine = [mine, chunks(c)%columns(:chunks(c)%ncol, field)]
    end do
    call MPI_Gatherv(mine, size(mine), MPI_DOUBLE_PRECISION, all_ranks, d%first(2:) - d%first(:parallel%size), &
      d%first(:parallel%size) - 1, MPI_DOUBLE_PRECISION, 0, MPI_COMM_WORLD)
    if (parallel%is_root) values(d%order) = all_ranks
  end subroutine gather_columns

  subroutine scatter_columns(parallel, d, values, field, chunks)
    type(parallel_t), intent(in) :: parallel
    type(decomposition_t), intent(in) :: d
    real(r8), intent(in) :: values(:)
    integer, intent(in) :: field
    type(chunk_t), intent(inout) :: chunks(:)
    real(r8), allocatable :: mine(:), all_ranks(:)
    integer :: c, n

    allocate(mine(num_mine(parallel, d)), all_ranks(merge(size(d%order), 0, parallel%is_root)))
    if (parallel%is_root) all_ranks = values(d%order)
    call MPI_Scatterv(all_ranks, d%first(2:) - d%first(:parallel%size), d%first(:parallel%size) - 1, &
      MPI_DOUBLE_PRECISION, mine, size(mine), MPI_DOUBLE_PRECISION, 0, MPI_COMM_WORLD)
    n = 0
    do c = 1, size(chunks)
      chunks(c)%columns(:chunks(c)%ncol, field) = mine(n + 1:n + chunks(c)%ncol)
      n = n + chunks(c)%ncol
    end do
  end subroutine scatter_columns

  pure integer function num_mine(parallel, d)
    type(parallel_t), intent(in) :: parallel
    type(decomposition_t), intent(in) :: d

    num_mine = d%first(parallel%rank + 2) - d%first(parallel%rank + 1)
  end function num_mine

  !> Sums over ranks, the same on all.
  function total(values)
    integer(int64), intent(in) :: values(:)
    integer(int64) :: total(size(values))

    call MPI_Allreduce(values, total, size(values), MPI_INTEGER8, MPI_SUM, MPI_COMM_WORLD)
  end function total

  !> Threads of the rank that has most: ranks may differ, and all have to cut the globe into the same chunks.
  integer function most_threads()
    call MPI_Allreduce(num_threads(), most_threads, 1, MPI_INTEGER, MPI_MAX, MPI_COMM_WORLD)
  end function most_threads
end module climate_parallel
