!> Which rank and chunk holds which column. As in E3SM the answer depends on the number of ranks and threads and on
!! `pcols`, so a column has other neighbours, and another place among them, in every layout.
!!
!! Columns half the globe apart form pairs (day and night cost differently), pairs are dealt to ranks, and a rank deals
!! its columns to as few chunks as hold them, but to one a thread at least.
module climate_decomposition
  implicit none
  private
  public :: decomposition_t, decompose

  type :: decomposition_t
    integer, allocatable :: owner(:)   !! rank that holds each column, from 0 (num_columns)
    integer, allocatable :: order(:)   !! columns rank by rank, chunk by chunk, place by place (num_columns)
    integer, allocatable :: first(:)   !! position in `order` of each rank's first column; ends with num_columns + 1
    integer, allocatable :: chunk_columns(:)  !! columns in each of this rank's chunks
  end type decomposition_t

contains

  pure function decompose(num_columns, num_ranks, num_threads, pcols, rank) result(d)
    integer, intent(in) :: num_columns, num_ranks, pcols
    integer, intent(in) :: num_threads  !! of the rank that has most
    integer, intent(in) :: rank         !! this one, from 0
    type(decomposition_t) :: d
    integer, allocatable :: columns(:)
    integer :: r, g, n, num_chunks, c, next, half

    half = (num_columns + 1)/2
    allocate(d%owner(num_columns), d%order(num_columns), d%first(num_ranks + 1), d%chunk_columns(0))
    do g = 1, num_columns
      d%owner(g) = mod(mod(g - 1, half), num_ranks)
    end do
    next = 1
    do r = 0, num_ranks - 1
      d%first(r + 1) = next
      columns = pack([(g, g = 1, num_columns)], d%owner == r)
      n = size(columns)
      num_chunks = max((n + pcols - 1)/pcols, min(num_threads, n))
      do c = 1, num_chunks
        associate (mine => columns(c:n:num_chunks))
          d%order(next:next + size(mine) - 1) = mine
          next = next + size(mine)
          if (r == rank) d%chunk_columns = [d%chunk_columns, size(mine)]
        end associate
      end do
    end do
    d%first(num_ranks + 1) = next
  end function decompose
end module climate_decomposition
